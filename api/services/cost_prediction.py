"""Predicts what a job takes, part by part, from the work and the cost of finished jobs. Pure functions of numbers.

Costs are multiples of the work, so everything is a ratio and every mean a median of logarithms: one outlier moves
nothing. Jobs of a similar size count most, because small jobs have other rates than large ones (fixed costs).
The method is ours; docs/explanation/estimates.md derives it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Source = Literal["worker_kind", "other_kinds", "constants"]

#: A job four times as large or as small counts half as much.
_SIMILAR = math.log(4)
#: The interval covers this fraction of jobs, and needs this many: with fewer, no order statistic can cover it.
_LEVEL, _ENOUGH_JOBS = 0.9, 9
#: Without any job, the cost is within this factor; with a few, within a factor between this one and the learned one.
_UNLEARNED_FACTOR = 5.0
#: The same job never takes exactly as long again.
_LEAST_FACTOR = 1.1


@dataclass(frozen=True)
class Observation:
    """What one finished job had to do and what it took, by part: only parts for which both are known."""

    work: Mapping[str, float]
    cost: Mapping[str, float]

    @classmethod
    def make(
        cls,
        work: Mapping[str, Any],
        cost: Mapping[str, Any],
        factors: Mapping[str, float] | None = None,
        factor: float = 1.0,
    ) -> "Observation":
        """Return the usable parts: positive, finite numbers. Costs are multiplied by the part's factor or `factor`."""
        if not isinstance(work, Mapping) or not isinstance(cost, Mapping):
            return cls({}, {})
        parts = [part for part in work if _is_usable(work[part]) and _is_usable(cost.get(part))]
        scales = {part: (factors or {}).get(part, factor) for part in parts}
        return cls({part: work[part] for part in parts}, {part: cost[part] * scales[part] for part in parts})


@dataclass(frozen=True)
class History:
    """Finished jobs of the kind of worker that will run the job, and of other kinds."""

    own: Sequence[Observation]
    others: Sequence[Observation]


@dataclass(frozen=True)
class Prediction:
    """A predicted cost with its interval, and the number of finished jobs from which it is computed."""

    value: float
    low: float
    high: float
    source: Source
    num_jobs: int


def predict(work: Mapping[str, float], history: History, *, typed: Mapping[str, float]) -> Prediction:
    """Predict the cost of the work: the sum over its parts.

    Args:
        work: Work of each part, in any unit that the part's observations share.
        typed: Cost of each part by constants, for parts that no finished job has.
    """
    own = [seen for seen in history.own if seen.cost]
    others = [seen for seen in history.others if seen.cost]
    known = _predict_parts(work, own)
    parts = _fill(known, _fill(_predict_parts(work, others), typed))
    value = sum(parts.values())
    share_known = sum(known.values()) / value if value > 0 else 0.0
    factor = math.exp(_compute_half_width(value, own, share_known))
    source: Source = "worker_kind" if own else "other_kinds" if others else "constants"
    return Prediction(value, value / factor, value * factor, source, len(own) or len(others))


def _predict_parts(work: Mapping[str, float], observations: Sequence[Observation]) -> dict[str, float]:
    """Return the cost of each part that an observation has, by the median rate of its similar observations."""
    parts = {}
    for part, amount in work.items():
        seen = [(item.work[part], item.cost[part]) for item in observations if part in item.cost]
        if seen:
            rates = [(math.log(cost / size), _compare_sizes(amount, size)) for size, cost in seen]
            parts[part] = amount * math.exp(_compute_weighted_median(rates))
    return parts


def _fill(known: Mapping[str, float], fallback: Mapping[str, float]) -> dict[str, float]:
    """Return all parts of the fallback: as known, or scaled by the median ratio of the parts that both have."""
    shared = [math.log(known[part] / fallback[part]) for part in known if fallback.get(part, 0.0) > 0]
    scale = math.exp(median(shared)) if shared else 1.0
    return {part: cost * scale for part, cost in fallback.items()} | dict(known)


def _compute_half_width(value: float, observations: Sequence[Observation], share_known: float) -> float:
    """Return the half width of the interval of the logarithm of the cost.

    It is the weighted quantile of the errors that each observation has when the others predict it (weighted
    conformal prediction, Tibshirani et al. 2019, arXiv:1904.06019: the new job has a mass of its own).
    Differs from it: errors are those of leaving one out; below `_ENOUGH_JOBS` the interval is widened, not infinite.
    """
    errors = []
    for number, seen in enumerate(observations):
        error = _compute_error(seen, [*observations[:number], *observations[number + 1 :]])
        if error is not None:
            errors.append((error, _compare_sizes(value, sum(seen.cost.values()))))
    num_similar = share_known * sum(weight for _, weight in errors)
    widening = math.log(_UNLEARNED_FACTOR) * max(0.0, 1 - num_similar / _ENOUGH_JOBS)
    return max(_compute_conformal_quantile(errors) + widening, math.log(_LEAST_FACTOR))


def _compute_error(seen: Observation, others: Sequence[Observation]) -> float | None:
    """Return by how much the others mispredict the logarithm of a cost; None if they share no part with it."""
    parts = _predict_parts(seen.work, others)
    if not parts:
        return None
    return abs(math.log(sum(seen.cost[part] for part in parts) / sum(parts.values())))


def _compute_conformal_quantile(errors: Sequence[tuple[float, float]]) -> float:
    """Return the least error that, with all below it, has the level's weight; the largest if none has."""
    mass = 1.0 + sum(weight for _, weight in errors)
    reached = 0.0
    for error, weight in sorted(errors):
        reached += weight
        if reached >= _LEVEL * mass - 1e-9:
            return error
    return max((error for error, _ in errors), default=0.0)


def _compute_weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """Return the value with half the weight on each side; the mean of two if the half is between them."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    reached = 0.0
    for number, (value, weight) in enumerate(ordered):
        reached += weight
        if math.isclose(reached, half) and number + 1 < len(ordered):
            return (value + ordered[number + 1][0]) / 2
        if reached > half:
            return value
    return ordered[-1][0]


def _compare_sizes(size: float, other: float) -> float:
    """Return the weight of a job by its size: 1 for the same size, 0.5 at a factor of four, falling to 0."""
    return 1.0 / (1.0 + (math.log(size / other) / _SIMILAR) ** 2) if size > 0 < other else 0.0


def _is_usable(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
