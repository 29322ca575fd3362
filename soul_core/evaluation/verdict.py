"""Criteria and measurements in, verdict out. The whole confidence interval decides; the words claim no more than that.

`run()` calls this last, before it writes the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG
from soul_core.evaluation.recitals import format_recitals
from soul_core.formatting import format_number
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval
from soul_core.report import CriterionResult, Interval, MetricValue, ModelMeasurements, Recital, Verdict
from soul_core.spec import Criterion

_NOTHING = ModelMeasurements(sets={})


def judge_criteria(
    criteria: Sequence[Criterion],
    *,
    judged: ModelMeasurements,
    base: ModelMeasurements | None,
    resampling: Resampling,
    attacked_measurements: Mapping[str, ModelMeasurements] | None = None,
    baseline_measurements: Mapping[str, ModelMeasurements] | None = None,
) -> tuple[CriterionResult, ...]:
    """Say of each criterion whether it is passed, failed or inconclusive, and why.

    `attacked` is the judged model under each attack, by label; `base_unattacked` the base on the same rows without it:
    a bound relative to the base is relative to what the base says when nobody attacks it.
    """

    def one(criterion: Criterion) -> CriterionResult:
        if criterion.attack is None:
            return _judge_one(criterion, judged, base, resampling)
        after = (attacked_measurements or {}).get(criterion.attack, _NOTHING)
        return _judge_one(criterion, after, (baseline_measurements or {}).get(criterion.attack), resampling)

    return tuple(map(one, criteria))


def decide_verdict(
    results: Sequence[CriterionResult],
    *,
    confidence: float,
    is_about_forgetting: bool = True,
    recitals: Sequence[Recital] = (),
) -> tuple[Verdict, str]:
    """Return the verdict and its reason: failed if any criterion failed or a fact is recited that should be gone, else
    inconclusive if any criterion is, else passed.

    `forgetting`: the criteria are about something that should be gone, whose absence nothing proves.
    """
    told = f"The model still gives away what was to be forgotten, on {format_recitals(recitals)}." if recitals else ""
    if not results:
        nothing = "The spec names no criteria, so there is nothing to decide by."
        return Verdict.INCONCLUSIVE, f"{nothing} {told}".rstrip()
    verdict, reason = _by_criteria(results, confidence=confidence, forgetting=is_about_forgetting)
    if not recitals:
        return verdict, reason
    return Verdict.FAILED, f"{reason} {told}" if verdict == Verdict.FAILED else told


def _by_criteria(results: Sequence[CriterionResult], *, confidence: float, forgetting: bool) -> tuple[Verdict, str]:
    broken = [r for r in results if r.outcome == Verdict.FAILED]
    open_ones = [r for r in results if r.outcome == Verdict.INCONCLUSIVE]
    if broken:
        return Verdict.FAILED, f"{_of(broken, results)} broken: {_list(broken)}."
    if open_ones:
        return Verdict.INCONCLUSIVE, f"{_of(open_ones, results)} undecided: {_list(open_ones)}."
    held = f"All {len(results)} criteria hold over their" if len(results) > 1 else "The one criterion holds over its"
    reason = f"{held} whole {100 * confidence:.4g}% interval."
    more = "no proof that nothing can be recovered" if forgetting else "and no more"
    return Verdict.PASSED, f"{reason} That is what these tests on these rows show, {more}."


@dataclass(frozen=True)
class _Case:
    """One criterion with all that decides it, in units of `scale`: 1, or the base model's value."""

    criterion: Criterion
    value: float
    interval: Interval | None
    scale: float
    unit: str

    def result(self, *, resampled: bool) -> CriterionResult:
        outcome, remark = self._outcome(resampled=resampled)
        shown = format_number(self.value)
        if self.interval:
            shown += f" [{format_number(self.interval[0])}, {format_number(self.interval[1])}]"
        word = "at most" if self.criterion.at_most is not None else "at least"
        return CriterionResult(
            criterion=self.criterion,
            outcome=outcome,
            value=self.value * self.scale,
            interval=self.interval and (self.interval[0] * self.scale, self.interval[1] * self.scale),
            bound=self._bound * self.scale,
            reason=f"{shown}{self.unit}; {word} {format_number(self._bound)} was asked{remark}",
        )

    @property
    def _bound(self) -> float:
        bound = self.criterion.at_most if self.criterion.at_most is not None else self.criterion.at_least
        assert bound is not None
        return bound

    def _outcome(self, *, resampled: bool) -> tuple[Verdict, str]:
        if self.interval is None and resampled:
            return Verdict.INCONCLUSIVE, ", but there are too few rows for an interval"
        low, high = self.interval or (self.value, self.value)
        remark = "" if self.interval else " (no intervals, as the spec wants)"
        if self.criterion.at_least is not None:  # the same question, turned around
            low, high, bound = -high, -low, -self._bound
        else:
            bound = self._bound
        if high <= bound:
            return Verdict.PASSED, remark
        if low > bound:
            return Verdict.FAILED, remark
        return Verdict.INCONCLUSIVE, ", which lies inside the interval"


def _judge_one(
    criterion: Criterion, judged: ModelMeasurements, base: ModelMeasurements | None, resampling: Resampling
) -> CriterionResult:
    def undecided(reason: str, known: MetricValue | None = None) -> CriterionResult:
        return CriterionResult(
            criterion=criterion,
            outcome=Verdict.INCONCLUSIVE,
            value=known and known.value,
            interval=known and known.interval,
            bound=None,
            reason=reason,
        )

    resampled = resampling.num_resamples > 0
    after = _find(judged, criterion)
    if after.value is None:
        return undecided(f"not measured: {after.absent_reason}")
    if not criterion.relative_to_base:
        return _Case(criterion, after.value, after.interval, 1.0, "").result(resampled=resampled)
    if base is None:
        return undecided("no base model was given to compare with; give one, or an absolute bound", after)
    before = _find(base, criterion)
    if before.value is None:
        return undecided(f"not measured on the base model: {before.absent_reason}", after)
    if before.value == 0:
        return undecided("the base model's value is 0, and a factor of 0 is no bound; give an absolute one", after)
    unit = f" times the base model's {format_number(before.value)}"
    entry = METRIC_CATALOG.get(criterion.metric)
    numbers = judged.rows.get(criterion.set, ()), base.rows.get(criterion.set, ())
    ratio = compute_ratio_interval(
        after,
        before,
        resampling,
        aggregate=entry.get_aggregate(criterion.set) if entry else "mean",
        rows=numbers if all(numbers) else None,
    )
    if ratio is None and after.interval:
        ratio = (after.interval[0] / before.value, after.interval[1] / before.value)
        unit += " (taken as exact, since rows do not pair up)"
    return _Case(criterion, after.value / before.value, ratio, before.value, unit).result(resampled=resampled)


def _find(model: ModelMeasurements, criterion: Criterion) -> MetricValue:
    if criterion.attack is not None and not model.sets:
        return MetricValue(value=None, absent_reason=f"the attack {criterion.attack} was not run")
    if criterion.set not in model.sets:
        return MetricValue(value=None, absent_reason=f"no {criterion.set} set was given")
    if criterion.metric not in model.sets[criterion.set]:
        return MetricValue(value=None, absent_reason=f"{criterion.metric} is not among the metrics of the spec")
    return model.sets[criterion.set][criterion.metric]


def _of(some: Sequence[CriterionResult], results: Sequence[CriterionResult]) -> str:
    return f"{len(some)} of {len(results)} criteria {'is' if len(some) == 1 else 'are'}"


def _list(results: Sequence[CriterionResult]) -> str:
    return "; ".join(f"{format_criterion(r.criterion)}: {r.reason}" for r in results)


def format_criterion(criterion: Criterion) -> str:
    """Say what a criterion is taken on: forget probability, forget probability under relearn."""
    under = f" under {criterion.attack}" if criterion.attack else ""
    own_set = (
        "" if criterion.metric.startswith(f"{criterion.set}_") else f"{criterion.set} "
    )  # no "forget forget_quality"
    return f"{own_set}{criterion.metric}{under}"
