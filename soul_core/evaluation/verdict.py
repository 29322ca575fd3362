"""Criteria and measurements in, verdict out. The complete interval decides; the reason claims no more than that.

`run()` calls this last, before it writes the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG
from soul_core.evaluation.recitals import format_recitals
from soul_core.formatting import format_estimate, format_number
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval
from soul_core.report import CriterionResult, Interval, MetricValue, ModelMeasurements, Recital, Verdict
from soul_core.spec import Criterion

_NOTHING_MEASURED = ModelMeasurements(sets={})


def judge_criteria(
    criteria: Sequence[Criterion],
    *,
    judged: ModelMeasurements,
    base: ModelMeasurements | None,
    resampling: Resampling,
    attacked_measurements: Mapping[str, ModelMeasurements] | None = None,
    baseline_measurements: Mapping[str, ModelMeasurements] | None = None,
) -> tuple[CriterionResult, ...]:
    """Return for each criterion whether it is passed, failed or inconclusive, and why.

    Args:
        attacked_measurements: Label of the attack -> the judged model under it.
        baseline_measurements: Label of the attack -> the base model on the same rows without it, to which a relative
            bound refers.
    """
    results = []
    for criterion in criteria:
        of_judged, of_base = judged, base
        if criterion.attack is not None:
            of_judged = (attacked_measurements or {}).get(criterion.attack, _NOTHING_MEASURED)
            of_base = (baseline_measurements or {}).get(criterion.attack)
        results.append(_judge_criterion(criterion, of_judged, of_base, resampling))
    return tuple(results)


def decide_verdict(
    results: Sequence[CriterionResult],
    *,
    confidence: float,
    is_about_forgetting: bool = True,
    recitals: Sequence[Recital] = (),
) -> tuple[Verdict, str]:
    """Return the verdict and its reason.

    Failed if a criterion failed or a fact of a forget set is recited; else inconclusive if a criterion is, or if there
    is none; else passed.

    Args:
        is_about_forgetting: Whether the criteria are about facts that should be forgotten, which no test can prove.
    """
    recited = f"The model still recites facts of a forget set: {format_recitals(recitals)}." if recitals else ""
    if not results:
        return Verdict.INCONCLUSIVE, f"The spec has no criteria, so there is nothing to decide by. {recited}".rstrip()
    verdict, reason = _combine_results(results, confidence=confidence, is_about_forgetting=is_about_forgetting)
    if not recitals:
        return verdict, reason
    return Verdict.FAILED, f"{reason} {recited}" if verdict == Verdict.FAILED else recited


def _combine_results(
    results: Sequence[CriterionResult], *, confidence: float, is_about_forgetting: bool
) -> tuple[Verdict, str]:
    for verdict, word in ((Verdict.FAILED, "failed"), (Verdict.INCONCLUSIVE, "undecided")):
        matching = [result for result in results if result.outcome == verdict]
        if matching:
            reasons = "; ".join(f"{format_criterion(result.criterion)}: {result.reason}" for result in matching)
            return verdict, f"{len(matching)} of {len(results)} criteria {word}: {reasons}."
    met = f"All {len(results)} criteria are met over their" if len(results) > 1 else "The one criterion is met over its"
    limit = "no proof that nothing can be recovered" if is_about_forgetting else "and no more"
    return (
        Verdict.PASSED,
        f"{met} complete {100 * confidence:.4g}% interval. That is what these tests on these rows show, {limit}.",
    )


@dataclass(frozen=True)
class _Comparison:
    """A criterion's value and interval against its bound, in units of `scale`: 1, or the base model's value."""

    criterion: Criterion
    value: float
    interval: Interval | None
    scale: float
    unit: str

    def make_result(self, *, has_intervals: bool) -> CriterionResult:
        outcome, remark = self._decide(has_intervals=has_intervals)
        direction = "at most" if self.criterion.at_most is not None else "at least"
        return CriterionResult(
            criterion=self.criterion,
            outcome=outcome,
            value=self.value * self.scale,
            interval=self.interval and (self.interval[0] * self.scale, self.interval[1] * self.scale),
            bound=self._bound * self.scale,
            reason=f"{format_estimate(self.value, self.interval)}{self.unit}; required is {direction} "
            f"{format_number(self._bound)}{remark}",
        )

    @property
    def _bound(self) -> float:
        bound = self.criterion.at_most if self.criterion.at_most is not None else self.criterion.at_least
        assert bound is not None
        return bound

    def _decide(self, *, has_intervals: bool) -> tuple[Verdict, str]:
        """Return the outcome and a remark on it."""
        if self.interval is None and has_intervals:
            return Verdict.INCONCLUSIVE, ", but there are too few rows for an interval"
        remark = "" if self.interval else " (without an interval: the spec turns them off)"
        low, high = self.interval or (self.value, self.value)
        is_upper_bound = self.criterion.at_most is not None
        if high <= self._bound if is_upper_bound else low >= self._bound:
            return Verdict.PASSED, remark
        if low > self._bound if is_upper_bound else high < self._bound:
            return Verdict.FAILED, remark
        return Verdict.INCONCLUSIVE, ", which is inside the interval"


def _judge_criterion(
    criterion: Criterion, judged: ModelMeasurements, base: ModelMeasurements | None, resampling: Resampling
) -> CriterionResult:
    def make_inconclusive(reason: str, measured: MetricValue | None = None) -> CriterionResult:
        return CriterionResult(
            criterion=criterion,
            outcome=Verdict.INCONCLUSIVE,
            value=measured and measured.value,
            interval=measured and measured.interval,
            bound=None,
            reason=reason,
        )

    has_intervals = resampling.num_resamples > 0
    after = _get_value(judged, criterion)
    if after.value is None:
        return make_inconclusive(f"not measured: {after.absent_reason}")
    if not criterion.relative_to_base:
        return _Comparison(criterion, after.value, after.interval, 1.0, "").make_result(has_intervals=has_intervals)
    if base is None:
        return make_inconclusive("no base model was given to compare with; give one, or an absolute bound", after)
    before = _get_value(base, criterion)
    if before.value is None:
        return make_inconclusive(f"not measured on the base model: {before.absent_reason}", after)
    if before.value == 0:
        return make_inconclusive("a factor of the base model's value, which is 0, is 0; give an absolute bound", after)
    unit = f" times the base model's {format_number(before.value)}"
    interval = _compute_ratio_interval(criterion, judged, base, resampling)
    if interval is None and after.interval:
        interval = (after.interval[0] / before.value, after.interval[1] / before.value)
        unit += " (taken as exact, since rows do not pair up)"
    comparison = _Comparison(criterion, after.value / before.value, interval, before.value, unit)
    return comparison.make_result(has_intervals=has_intervals)


def _compute_ratio_interval(
    criterion: Criterion, judged: ModelMeasurements, base: ModelMeasurements, resampling: Resampling
) -> Interval | None:
    entry = METRIC_CATALOG.get(criterion.metric)
    rows = judged.rows.get(criterion.set, ()), base.rows.get(criterion.set, ())
    return compute_ratio_interval(
        _get_value(judged, criterion),
        _get_value(base, criterion),
        resampling,
        aggregate=entry.get_aggregate(criterion.set) if entry else "mean",
        rows=rows if all(rows) else None,
    )


def _get_value(model: ModelMeasurements, criterion: Criterion) -> MetricValue:
    """Return the criterion's metric; absent with the reason if it was not measured."""
    if criterion.attack is not None and not model.sets:
        return MetricValue(value=None, absent_reason=f"the attack {criterion.attack} was not run")
    if criterion.set not in model.sets:
        return MetricValue(value=None, absent_reason=f"no {criterion.set} set was given")
    if criterion.metric not in model.sets[criterion.set]:
        return MetricValue(value=None, absent_reason=f"{criterion.metric} is not among the metrics of the spec")
    return model.sets[criterion.set][criterion.metric]


def format_criterion(criterion: Criterion) -> str:
    """Return set, metric and attack of a criterion: forget probability, forget probability under relearn."""
    has_set_in_name = criterion.metric.startswith(f"{criterion.set}_")  # not "forget forget_quality"
    set_name = "" if has_set_in_name else f"{criterion.set} "
    return f"{set_name}{criterion.metric}" + (f" under {criterion.attack}" if criterion.attack else "")
