"""Measurements as a derived metric reads them: values of rows, or the reason why there are none."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.statistics import Floats
from soul_core.report import MetricValue, ModelMeasurements


class MetricInputMissing(Exception):
    """An input of a derived metric was not measured; the text becomes the metric's `absent_reason`."""


@dataclass(frozen=True)
class DerivedMetricInputs:
    """What a derived metric is computed from."""

    measurements: ModelMeasurements
    retrained: ModelMeasurements | None
    resampling: Resampling
    base: ModelMeasurements | None = None

    def require_base(self) -> ModelMeasurements:
        """Return the base model's measurements. Raises MetricInputMissing."""
        if self.base is None:
            raise MetricInputMissing("no base model was given to compare with")
        return self.base

    def require_retrained(self) -> ModelMeasurements:
        """Return the retrained model's measurements. Raises MetricInputMissing."""
        if self.retrained is None:
            raise MetricInputMissing("no model retrained without the forget set, nor its log, was given")
        return self.retrained


def get_metric(model: ModelMeasurements, set_name: str, metric: str) -> MetricValue:
    """Return a metric that has values of single rows. Raises MetricInputMissing."""
    if set_name not in model.rows and set_name not in model.sets:
        raise MetricInputMissing(f"no {set_name} set was given")
    value = model.sets[set_name].get(metric)
    if value is None:
        raise MetricInputMissing(f"{metric} was not measured on the {set_name} set")
    if value.value is None:
        raise MetricInputMissing(f"no {metric} of the {set_name} set: {value.absent_reason}")
    if value.per_example is None:
        raise MetricInputMissing(f"{metric} of the {set_name} set has no values of single rows")
    return value


def get_row_values(model: ModelMeasurements, set_name: str, metric: str) -> Mapping[int, float]:
    """Return row number -> value, for the rows that have one. Raises MetricInputMissing."""
    values = get_metric(model, set_name, metric).per_example
    assert values is not None
    numbers = model.rows.get(set_name) or range(1, len(values) + 1)
    return {row: value for row, value in zip(numbers, values, strict=True) if value is not None}


def get_values(model: ModelMeasurements, set_name: str, metric: str) -> Floats:
    """Return the values of the rows that have one. Raises MetricInputMissing."""
    return np.array(list(get_row_values(model, set_name, metric).values()), dtype=np.float64)


def get_paired_values(inputs: DerivedMetricInputs, set_name: str, metric: str) -> tuple[Floats, Floats]:
    """Return the model's and the retrained model's values of the rows both have. Raises MetricInputMissing."""
    ours, theirs = get_both_row_values(inputs, set_name, metric)
    common = [row for row in ours if row in theirs]
    if not common:
        raise MetricInputMissing(f"the retrained model was measured on other rows of the {set_name} set")
    return np.array([ours[row] for row in common]), np.array([theirs[row] for row in common])


def get_both_row_values(
    inputs: DerivedMetricInputs, set_name: str, metric: str
) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """Return row number -> value of the model and of the retrained model. Raises MetricInputMissing."""
    retrained = inputs.require_retrained()
    ours = get_row_values(inputs.measurements, set_name, metric)
    try:
        return ours, get_row_values(retrained, set_name, metric)
    except MetricInputMissing as error:
        raise MetricInputMissing(f"of the retrained model: {error}") from error
