"""From the values of single rows to the value of a set, with a bootstrap interval; two models are paired by row.

Intervals are made by `scipy.stats.bootstrap`, which resamples row indices: all values of a row stay together, those
of several models included. Method and exceptions: decision 0015.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

from soul_core.catalogue import Aggregate
from soul_core.metrics.statistics import Floats, Indices
from soul_core.report import Interval, MetricValue
from soul_core.spec import Evaluation

#: A resample of fewer rows does not vary.
MIN_ROWS = 2
#: Above this number of rows an interval is a percentile interval: BCa's jackknife takes rows squared, and its
#: correction shrinks with the square root of the rows.
MAX_BCA_ROWS = 5_000
#: Numbers in memory at once for each array of resamples.
_MAX_CELLS = 4_000_000


@dataclass(frozen=True)
class Resampling:
    """How confidence intervals are made."""

    num_resamples: int
    confidence: float
    seed: int

    @classmethod
    def of(cls, evaluation: Evaluation, seed: int) -> "Resampling":
        """Return the settings of a spec's evaluation."""
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

    A value that is not finite makes the whole metric absent: to drop such rows would flatter the model.
    """
    num_not_finite = sum(value is not None and not math.isfinite(value) for value in values)
    if num_not_finite:
        return make_absent_value(f"{num_not_finite} of {len(values)} rows gave a value that is not finite")
    defined = [i for i, value in enumerate(values) if value is not None]
    if not defined:
        return make_absent_value("no row has what this metric needs")
    x_N, w_N = _make_arrays(values, weights, defined)
    compute = _AGGREGATES[aggregate]
    return MetricValue(
        value=float(compute(x_N, w_N)),
        interval=compute_interval(
            lambda index: compute(x_N[index], w_N[index]), [len(defined)], resampling, method="BCa"
        ),
        count=len(defined),
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
) -> Interval | None:
    """Return the interval of model / base, both resampled on the same rows.

    Rows differ far more from each other than a row before training differs from itself after it; pairing removes that
    part of the variance.

    Args:
        rows: The row numbers of both models' values, by which they are paired; None: they are in the same order.

    Returns:
        None if there is no interval: too few rows, rows that one of the two lacks, or a base of 0 in some resample.
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
    defined = [i for i in range(len(ours)) if ours[i] is not None and theirs[i] is not None]
    a_N, w_N = _make_arrays(ours, model.weights, defined)
    b_N, _ = _make_arrays(theirs, None, defined)
    compute = _AGGREGATES[aggregate]

    def compute_ratio(index: Indices) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Floats = compute(a_N[index], w_N[index]) / compute(b_N[index], w_N[index])
        return ratio

    return compute_interval(compute_ratio, [len(defined)], resampling, method="BCa")


def compute_gain(
    before: MetricValue, after: MetricValue, resampling: Resampling, *, aggregate: Aggregate
) -> MetricValue:
    """Return what an attack brings back: the value under it minus the value before, on the same rows in one order.

    Positive: the attack reveals more. Its interval is that of the rows' mean difference.

    Args:
        aggregate: Of the metric. Only a mean has a gain: the difference of other aggregates is none of row differences.
    """
    for value in (before, after):
        if value.value is None:
            return make_absent_value(value.absent_reason or "it was not measured")
    if aggregate != "mean" or before.per_example is None or after.per_example is None:
        return make_absent_value("a gain needs a metric that is the mean of its rows; bound the value under the attack")
    if len(before.per_example) != len(after.per_example):
        return make_absent_value("the attack was measured on other rows than the model before it")
    pairs = zip(before.per_example, after.per_example, strict=True)
    differences = [None if x is None or y is None else y - x for x, y in pairs]
    return summarize(differences, resampling, weights=after.weights)


def _make_arrays(
    values: Sequence[float | None], weights: Sequence[float] | None, defined: Sequence[int]
) -> tuple[Floats, Floats]:
    x_N = np.array([values[i] for i in defined], dtype=np.float64)
    w_N = np.ones(len(defined)) if weights is None else np.array([weights[i] for i in defined], dtype=np.float64)
    return x_N, w_N


def _mean(x: Floats, w: Floats) -> Floats:
    result: Floats = (x * w).sum(axis=-1) / w.sum(axis=-1)
    return result


def _geometric_mean(x: Floats, w: Floats) -> Floats:
    result: Floats = np.exp(_mean(np.log(x), w))
    return result


def _truth_ratio_forget(x: Floats, w: Floats) -> Floats:
    with np.errstate(divide="ignore"):  # of a ratio of 0 the inverse is infinite, and the smaller of the two counts
        return _mean(np.minimum(x, 1 / x), w)


def _truth_ratio_kept(x: Floats, w: Floats) -> Floats:
    return _mean(np.maximum(0.0, 1 - x), w)


#: Aggregate -> function of values and weights, (..., N) -> (...).
_AGGREGATES: dict[Aggregate, Callable[[Floats, Floats], Floats]] = {
    "mean": _mean,
    "geometric_mean": _geometric_mean,
    "truth_ratio_forget": _truth_ratio_forget,
    "truth_ratio_kept": _truth_ratio_kept,
}


def compute_interval(
    statistic: Callable[..., Floats],
    sizes: Sequence[int],
    resampling: Resampling,
    *,
    method: Literal["BCa", "percentile"] = "percentile",
) -> Interval | None:
    """Return the bootstrap interval of a statistic of one or more samples of rows, resampled independently.

    Where BCa is not defined (all rows have the same value) or costs too much (`MAX_BCA_ROWS`), the interval is the
    percentile interval of the same resamples.
    Source: BCa, Efron 1987, by `scipy.stats.bootstrap`.

    Args:
        statistic: Takes one array of row indices per sample, (B, size), and returns B values. For BCa it must also
            accept (size,) and (size, size - 1).
        sizes: Number of rows of each sample.

    Returns:
        None if no intervals are requested, a sample is too small, or a bound is not finite.
    """
    result = _bootstrap(statistic, sizes, resampling, method=method if max(sizes) <= MAX_BCA_ROWS else "percentile")
    if result is None:
        return None
    low, high = result.confidence_interval
    if math.isfinite(low) and math.isfinite(high):
        return float(low), float(high)
    return compute_percentile_interval(result.bootstrap_distribution, resampling)


def resample(statistic: Callable[..., Floats], sizes: Sequence[int], resampling: Resampling) -> Floats | None:
    """Return the statistic of every resample, (num_resamples,); see `compute_interval`."""
    result = _bootstrap(statistic, sizes, resampling, method="percentile")
    return None if result is None else result.bootstrap_distribution


def compute_percentile_interval(values_B: Floats, resampling: Resampling) -> Interval | None:
    """Return the middle part of the resampled values; None if a bound is not finite."""
    tail = (1 - resampling.confidence) / 2
    with np.errstate(invalid="ignore"):  # interpolation between two infinite values gives no number
        low, high = np.quantile(values_B, [tail, 1 - tail])
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def _bootstrap(
    statistic: Callable[..., Floats],
    sizes: Sequence[int],
    resampling: Resampling,
    *,
    method: Literal["BCa", "percentile"],
) -> Any | None:
    """Return scipy's result, or None if no intervals are requested or a sample is too small."""
    if resampling.num_resamples == 0 or min(sizes) < MIN_ROWS:
        return None

    def compute(*indices: Indices, axis: int) -> Floats:
        assert axis == -1  # of every array that scipy passes, rows are the last axis
        return statistic(*indices)

    # scipy also computes a standard error, which overflows for huge values and is not used
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        return bootstrap(
            [np.arange(size) for size in sizes],
            compute,
            n_resamples=resampling.num_resamples,
            batch=max(1, min(resampling.num_resamples, _MAX_CELLS // max(sizes))),
            vectorized=True,
            confidence_level=resampling.confidence,
            method=method,
            rng=np.random.default_rng(resampling.seed),
        )
