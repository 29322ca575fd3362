"""From the values of single rows to the value of a set, with a bootstrap interval; pairs of models row by row."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soul_core.catalogue import Aggregate
from soul_core.report import MetricValue
from soul_core.spec import Evaluation

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: With fewer rows a resample says nothing about other rows.
MIN_ROWS = 2
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Resampling:
    """How confidence intervals are made: percentile bootstrap over rows."""

    num_resamples: int
    confidence: float
    seed: int

    @classmethod
    def of(cls, evaluation: Evaluation, seed: int) -> "Resampling":
        """Return it as a spec asks for it."""
        return cls(evaluation.bootstrap, evaluation.confidence, seed)


def make_absent_value(reason: str) -> MetricValue:
    """Return the value of a metric that could not be measured."""
    return MetricValue(value=None, absent_reason=reason)


def summarize(
    values: Sequence[float | None],
    resampling: Resampling,
    *,
    weights: Sequence[float] | None = None,
    aggregate: Aggregate = "mean",
) -> MetricValue:
    """Aggregate the rows that have a value; None marks a row on which the metric is not defined.

    A value that is not finite makes the whole metric absent: dropping such rows would flatter the model.
    """
    broken = sum(value is not None and not math.isfinite(value) for value in values)
    if broken:
        return make_absent_value(f"{broken} of {len(values)} rows gave a value that is not finite")
    kept = [i for i, value in enumerate(values) if value is not None]
    if not kept:
        return make_absent_value("no row has what this metric needs")
    x_N, w_N = _arrays(values, weights, kept)
    statistic = _STATISTICS[aggregate]
    return MetricValue(
        value=float(statistic(x_N[None], w_N[None])[0]),
        interval=_interval(lambda index_BN: statistic(x_N[index_BN], w_N[index_BN]), len(kept), resampling),
        count=len(kept),
        per_example=tuple(values),
        weights=None if weights is None else tuple(weights),
    )


def compute_ratio_interval(
    model: MetricValue,
    base: MetricValue,
    resampling: Resampling,
    *,
    aggregate: Aggregate,
    rows: tuple[Sequence[int], Sequence[int]] | None = None,
) -> tuple[float, float] | None:
    """Return the interval of model / base, both resampled on the same rows.

    Rows differ far more from each other than a row before differs from itself after; pairing takes that part out.
    `rows`: the row numbers behind both models' values, by which they pair; None: they are in the same order.
    None: no interval can be made (too few rows, rows that one of both lacks, or a base of 0 in some resample).
    """
    ours, theirs = model.per_example, base.per_example
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    place = list(range(len(ours)))
    if rows is not None and tuple(rows[0]) != tuple(rows[1]):
        if sorted(rows[0]) != sorted(rows[1]):
            return None
        places = {row: i for i, row in enumerate(rows[1])}
        place = [places[row] for row in rows[0]]
    theirs = tuple(theirs[i] for i in place)
    weights = base.weights and tuple(base.weights[i] for i in place)
    kept = [i for i in range(len(ours)) if ours[i] is not None and theirs[i] is not None]
    a_N, w_N = _arrays(ours, model.weights, kept)
    b_N, _ = _arrays(theirs, weights, kept)
    statistic = _STATISTICS[aggregate]

    def ratio(index_BN: Indices) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            result: Floats = statistic(a_N[index_BN], w_N[index_BN]) / statistic(b_N[index_BN], w_N[index_BN])
        return result

    return _interval(ratio, len(kept), resampling)


def _arrays(
    values: Sequence[float | None], weights: Sequence[float] | None, kept: Sequence[int]
) -> tuple[Floats, Floats]:
    x_N = np.array([values[i] for i in kept], dtype=np.float64)
    w_N = np.ones(len(kept)) if weights is None else np.array([weights[i] for i in kept], dtype=np.float64)
    return x_N, w_N


def _mean(x_BN: Floats, w_BN: Floats) -> Floats:
    result: Floats = (x_BN * w_BN).sum(axis=1) / w_BN.sum(axis=1)
    return result


def _geometric_mean(x_BN: Floats, w_BN: Floats) -> Floats:
    result: Floats = np.exp(_mean(np.log(x_BN), w_BN))
    return result


def _truth_ratio_forget(x_BN: Floats, w_BN: Floats) -> Floats:
    with np.errstate(divide="ignore"):  # a ratio of 0: the other one is infinite, and the smaller of them counts
        return _mean(np.minimum(x_BN, 1 / x_BN), w_BN)


def _truth_ratio_kept(x_BN: Floats, w_BN: Floats) -> Floats:
    return _mean(np.maximum(0.0, 1 - x_BN), w_BN)


_STATISTICS: dict[Aggregate, Callable[[Floats, Floats], Floats]] = {
    "mean": _mean,
    "geometric_mean": _geometric_mean,
    "truth_ratio_forget": _truth_ratio_forget,
    "truth_ratio_kept": _truth_ratio_kept,
}


def _interval(
    statistic: Callable[[Indices], Floats], num_rows: int, resampling: Resampling
) -> tuple[float, float] | None:
    return compute_interval(lambda indices: statistic(indices[0]), [num_rows], resampling)


def compute_interval(
    statistic: Callable[[Sequence[Indices]], Floats], sizes: Sequence[int], resampling: Resampling
) -> tuple[float, float] | None:
    """Return the percentile interval of a statistic of several samples of rows; see `resample`.

    None: no intervals are asked for, a sample is too small, or a resample gave no number.
    """
    values_B = resample(statistic, sizes, resampling)
    return None if values_B is None else compute_percentile_interval(values_B, resampling)


def resample(
    statistic: Callable[[Sequence[Indices]], Floats], sizes: Sequence[int], resampling: Resampling
) -> Floats | None:
    """Return the statistic of every resample, (resamples,). Each sample of rows is resampled by itself.

    `statistic` gets one (B, size) array of row indices a sample and returns B values.
    """
    if resampling.num_resamples == 0 or min(sizes) < MIN_ROWS:
        return None
    rng: Any = np.random.default_rng(resampling.seed)
    at_once = max(1, _CELLS_AT_ONCE // max(sizes))
    batches = [min(at_once, resampling.num_resamples - start) for start in range(0, resampling.num_resamples, at_once)]
    parts = [statistic([rng.integers(0, size, size=(batch, size)) for size in sizes]) for batch in batches]
    return np.concatenate(parts)


def compute_percentile_interval(values_B: Floats, resampling: Resampling) -> tuple[float, float] | None:
    """Return the middle part of the resampled values; None when an end of it is no number."""
    tail = (1 - resampling.confidence) / 2
    with np.errstate(invalid="ignore"):  # between two infinite values: no number
        low, high = np.quantile(values_B, [tail, 1 - tail])
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None
