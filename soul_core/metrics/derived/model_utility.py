"""Model utility: one number for what is left of nine abilities."""

import numpy as np

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics.aggregate import compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_metric
from soul_core.metrics.statistics import Floats, Indices, harmonic_mean
from soul_core.report import MetricValue
from soul_core.spec import ALL


def model_utility(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return the harmonic mean of nine abilities, which is 0 if any is 0. The rows of each set are resampled.

    Source: TOFU (arXiv:2401.06121), section 2.2.3.
    """
    abilities = METRIC_CATALOG["model_utility"].inputs
    names = tuple(dict.fromkeys(name for name, _ in abilities))
    if missing := [name for name in names if name not in inputs.measurements.sets]:
        raise MetricInputMissing(f"it needs the sets {', '.join(names)}; not given: {', '.join(missing)}")
    parts = [(names.index(name), _get_contributions(inputs, name, metric)) for name, metric in abilities]
    sizes = [next(len(x_N) for place, x_N in parts if place == i) for i in range(len(names))]

    def compute_utility(*indices: Indices) -> Floats:
        mean_9B = np.stack([_compute_mean(x_N[indices[place]]) for place, x_N in parts])
        return np.array([harmonic_mean(list(mean_9)) for mean_9 in mean_9B.T])

    return {
        ALL: MetricValue(
            value=float(compute_utility(*(np.arange(size)[None] for size in sizes))[0]),
            interval=compute_interval(compute_utility, sizes, inputs.resampling),
            count=sum(sizes),
        )
    }


def _compute_mean(x_BN: Floats) -> Floats:
    """Return the mean of the rows that have a value; NaN where a resample has none of them."""
    has_value_BN = ~np.isnan(x_BN)
    with np.errstate(invalid="ignore"):
        mean_B: Floats = np.where(has_value_BN, x_BN, 0.0).sum(axis=1) / has_value_BN.sum(axis=1)
    return mean_B


def _get_contributions(inputs: DerivedMetricInputs, set_name: str, metric: str) -> Floats:
    """Return what each row contributes to the ability, (N,); NaN where it has no value."""
    values = get_metric(inputs.measurements, set_name, metric).per_example
    assert values is not None
    x_N = np.array([np.nan if value is None else value for value in values])
    return np.maximum(0.0, 1 - x_N) if metric == "truth_ratio" else x_N
