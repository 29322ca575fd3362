"""Model utility: one number for what is left of nine abilities."""

from collections.abc import Sequence

import numpy as np

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics.aggregate import Floats, Indices, compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_metric
from soul_core.metrics.statistics import harmonic_mean
from soul_core.report import MetricValue
from soul_core.spec import ALL


def model_utility(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return the harmonic mean of nine abilities, 0 as soon as one is lost. The rows of each set are resampled.

    Source: TOFU (arXiv:2401.06121), section 2.2.3.
    """
    abilities = METRIC_CATALOG["model_utility"].inputs
    names = tuple(dict.fromkeys(name for name, _ in abilities))
    if lacking := [name for name in names if name not in inputs.measurements.sets]:
        raise MetricInputMissing(f"it needs the sets {', '.join(names)}; not given: {', '.join(lacking)}")
    parts = [(names.index(name), _values(inputs, name, metric)) for name, metric in abilities]
    sizes = [next(len(x_N) for place, x_N in parts if place == i) for i in range(len(names))]

    def utility(indices: Sequence[Indices]) -> Floats:
        mean_9B = np.stack([_mean(x_N[indices[place]]) for place, x_N in parts])
        return np.array([harmonic_mean(list(mean_9)) for mean_9 in mean_9B.T])

    everything = [np.arange(size)[None] for size in sizes]
    return {
        ALL: MetricValue(
            value=float(utility(everything)[0]),
            interval=compute_interval(utility, sizes, inputs.resampling),
            count=sum(sizes),
        )
    }


def _mean(x_BN: Floats) -> Floats:
    """Return the mean of the rows that have a value; NaN where a resample drew none of them."""
    has_BN = ~np.isnan(x_BN)
    with np.errstate(invalid="ignore"):
        mean_B: Floats = np.where(has_BN, x_BN, 0.0).sum(axis=1) / has_BN.sum(axis=1)
    return mean_B


def _values(inputs: DerivedMetricInputs, set_name: str, metric: str) -> Floats:
    """Return what each row adds to the ability, NaN where it has no value: (N,)."""
    values = get_metric(inputs.measurements, set_name, metric).per_example
    assert values is not None
    x_N = np.array([np.nan if value is None else value for value in values])
    return np.maximum(0.0, 1 - x_N) if metric == "truth_ratio" else x_N
