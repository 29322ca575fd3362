"""Criteria and measurements in, verdict out. The whole confidence interval decides; the words claim no more than that.

`run()` calls this last, before it writes the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soul_core.metric_catalogue import CATALOGUE, number
from soul_core.metrics.aggregate import Resampling, ratio_interval
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Verdict
from soul_core.spec import Criterion

Interval = tuple[float, float]


def judge(
    criteria: Sequence[Criterion],
    *,
    unlearned: ModelMeasurements,
    base: ModelMeasurements,
    resampling: Resampling,
) -> tuple[CriterionResult, ...]:
    """Say of each criterion whether it is passed, failed or inconclusive, and why."""
    return tuple(_judge_one(criterion, unlearned, base, resampling) for criterion in criteria)


def conclude(results: Sequence[CriterionResult], *, confidence: float) -> tuple[Verdict, str]:
    """Return the verdict and its reason: failed if any criterion failed, else inconclusive if any is, else passed."""
    if not results:
        return "inconclusive", "The spec names no criteria, so there is nothing to decide by."
    broken = [r for r in results if r.outcome == "failed"]
    open_ones = [r for r in results if r.outcome == "inconclusive"]
    if broken:
        return "failed", f"{_of(broken, results)} broken: {_list(broken)}."
    if open_ones:
        return "inconclusive", f"{_of(open_ones, results)} undecided: {_list(open_ones)}."
    reason = f"All {len(results)} criteria hold over their whole {100 * confidence:.4g}% interval."
    return "passed", f"{reason} That is what these tests on these rows show, no proof that nothing can be recovered."


@dataclass(frozen=True)
class _Case:
    """One criterion with all that decides it."""

    criterion: Criterion
    value: float
    interval: Interval | None
    bound: float
    basis: str

    def outcome(self, *, resampled: bool) -> tuple[Verdict, str]:
        c = self.criterion
        wanted = f"{'at most' if c.at_most is not None else 'at least'} {number(self.bound)}{self.basis}"
        if self.interval is None and resampled:
            return "inconclusive", f"{number(self.value)} has too few rows for an interval; wanted {wanted}"
        low, high = self.interval or (self.value, self.value)
        shown = number(self.value) + (f" [{number(low)}, {number(high)}]" if self.interval else " (no interval asked)")
        inside, outside = (
            (high <= self.bound, low > self.bound) if c.at_most is not None else (low >= self.bound, high < self.bound)
        )
        if inside:
            return "passed", f"{shown} is {wanted}"
        if outside:
            return "failed", f"{shown} is not {wanted}"
        return "inconclusive", f"the interval of {shown} lies on both sides of the bound; wanted {wanted}"


def _judge_one(
    criterion: Criterion, unlearned: ModelMeasurements, base: ModelMeasurements, resampling: Resampling
) -> CriterionResult:
    def undecided(reason: str, value: float | None = None, interval: Interval | None = None) -> CriterionResult:
        return CriterionResult(
            criterion=criterion, outcome="inconclusive", value=value, interval=interval, bound=None, reason=reason
        )

    after = _find(unlearned, criterion)
    if after.value is None:
        return undecided(f"not measured: {after.absent_reason}")
    factor = criterion.at_most if criterion.at_most is not None else criterion.at_least
    assert factor is not None
    if not criterion.relative_to_base:
        case = _Case(criterion, after.value, after.interval, factor, "")
    else:
        before = _find(base, criterion)
        if before.value is None:
            return undecided(f"not measured on the base model: {before.absent_reason}", after.value, after.interval)
        if before.value == 0:
            reason = "the base model's value is 0, and a factor of 0 is no bound; give an absolute one"
            return undecided(reason, after.value, after.interval)
        interval, how = _relative_interval(criterion, after, before, resampling)
        basis = f" ({number(factor)} x the base model's {number(before.value)}{how})"
        case = _Case(criterion, after.value, interval, factor * before.value, basis)
    outcome, reason = case.outcome(resampled=resampling.resamples > 0)
    return CriterionResult(
        criterion=criterion, outcome=outcome, value=case.value, interval=case.interval, bound=case.bound, reason=reason
    )


def _relative_interval(
    criterion: Criterion, after: MetricValue, before: MetricValue, resampling: Resampling
) -> tuple[Interval | None, str]:
    """Return the interval to hold against factor x base, in the metric's unit: that of the ratio where rows pair up."""
    assert before.value is not None
    entry = CATALOGUE.get(criterion.metric)
    ratio = ratio_interval(after, before, resampling, aggregate=entry.aggregate if entry else "mean")
    if ratio is not None:
        return (ratio[0] * before.value, ratio[1] * before.value), ""
    return after.interval, "; rows do not pair up, so the base's value counts as exact"


def _find(model: ModelMeasurements, criterion: Criterion) -> MetricValue:
    if criterion.set not in model.sets:
        return MetricValue(value=None, absent_reason=f"no {criterion.set} set was given")
    if criterion.metric not in model.sets[criterion.set]:
        return MetricValue(value=None, absent_reason=f"{criterion.metric} is not among the metrics of the spec")
    return model.sets[criterion.set][criterion.metric]


def _of(some: Sequence[CriterionResult], results: Sequence[CriterionResult]) -> str:
    return f"{len(some)} of {len(results)} criteria {'is' if len(some) == 1 else 'are'}"


def _list(results: Sequence[CriterionResult]) -> str:
    return "; ".join(f"{r.criterion.set} {r.criterion.metric}: {r.reason}" for r in results)
