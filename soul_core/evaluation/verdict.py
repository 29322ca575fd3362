"""Criteria and measurements in, verdict out. The complete interval decides; the reason claims no more than that.

`run()` calls this last, before it writes the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soul_core.evaluation.criterion_inputs import (
    AttackedModels,
    CriterionInputs,
    get_aggregate,
    get_value,
    select_attack_inputs,
)
from soul_core.evaluation.recitals import format_recitals
from soul_core.formatting import format_estimate, format_number
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval
from soul_core.report import CriterionResult, Interval, MetricValue, ModelMeasurements, Recital, Verdict
from soul_core.spec import Criterion


def judge_criteria(
    criteria: Sequence[Criterion],
    *,
    judged: ModelMeasurements,
    base: ModelMeasurements | None,
    resampling: Resampling,
    retrained: ModelMeasurements | None = None,
    attacks: Mapping[str, AttackedModels] | None = None,
) -> tuple[CriterionResult, ...]:
    """Return for each criterion whether it is passed, failed or inconclusive, and why.

    A bound of a criterion on an attack refers to the base model without the attack, and to the retrained model under
    the same attack.

    Args:
        attacks: Label of the attack -> the models under it.
    """
    results = []
    for criterion in criteria:
        inputs = CriterionInputs(judged, base, retrained)
        if criterion.attack is not None:
            inputs = select_attack_inputs(criterion, attacks or {}, inputs, resampling)
        results.append(_judge_criterion(criterion, inputs, resampling))
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
    """A criterion's value and interval against its bound, in units of `scale`: 1, or the other model's value."""

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


def _judge_criterion(criterion: Criterion, inputs: CriterionInputs, resampling: Resampling) -> CriterionResult:
    if inputs.judged is None:
        return _make_inconclusive(criterion, f"not measured: {inputs.judged_absent_reason}")
    after = get_value(inputs.judged, criterion)
    if after.value is None:
        return _make_inconclusive(criterion, f"not measured: {after.absent_reason}")
    if criterion.relative_to_base or criterion.relative_to_retrained:
        return _judge_factor(criterion, inputs.judged, after, inputs, resampling)
    comparison = _Comparison(criterion, after.value, after.interval, 1.0, "")
    return comparison.make_result(has_intervals=resampling.num_resamples > 0)


def _judge_factor(
    criterion: Criterion,
    judged: ModelMeasurements,
    after: MetricValue,
    inputs: CriterionInputs,
    resampling: Resampling,
) -> CriterionResult:
    """Judge a bound that is a factor of the base or the retrained model's value."""
    assert after.value is not None
    name, compared = ("base", inputs.base) if criterion.relative_to_base else ("retrained", inputs.retrained)
    if compared is None:
        reason = inputs.base_absent_reason if criterion.relative_to_base else inputs.retrained_absent_reason
        return _make_inconclusive(criterion, reason, after)
    factor = get_value(compared, criterion)
    if factor.value is None:
        return _make_inconclusive(criterion, f"not measured on the {name} model: {factor.absent_reason}", after)
    if problem := _find_factor_problem(criterion, factor, name):
        return _make_inconclusive(criterion, problem, after)
    unit = f" times the {name} model's {format_number(factor.value)}"
    interval = _compute_ratio_interval(criterion, judged, compared, resampling)
    if interval is None and after.interval:
        interval = (after.interval[0] / factor.value, after.interval[1] / factor.value)
        unit += " (taken as exact, since rows do not pair up)"
    comparison = _Comparison(criterion, after.value / factor.value, interval, factor.value, unit)
    return comparison.make_result(has_intervals=resampling.num_resamples > 0)


def _make_inconclusive(criterion: Criterion, reason: str, measured: MetricValue | None = None) -> CriterionResult:
    return CriterionResult(
        criterion=criterion,
        outcome=Verdict.INCONCLUSIVE,
        value=measured and measured.value,
        interval=measured and measured.interval,
        bound=None,
        reason=reason,
    )


def _find_factor_problem(criterion: Criterion, factor: MetricValue, name: str) -> str | None:
    """Return why a factor of a value bounds nothing."""
    assert factor.value is not None
    if factor.value == 0:
        return f"a factor of the {name} model's value, which is 0, is 0; give an absolute bound"
    if criterion.gain and criterion.relative_to_retrained and (factor.interval or (factor.value,))[0] <= 0:
        return (
            f"the retrained model's own gain, {format_estimate(factor.value, factor.interval)}, may be 0, and a factor "
            "of that bounds nothing; bound the value under the attack (gain: false), or give an absolute bound"
        )
    return None


def _compute_ratio_interval(
    criterion: Criterion, judged: ModelMeasurements, compared: ModelMeasurements, resampling: Resampling
) -> Interval | None:
    rows = judged.rows.get(criterion.set, ()), compared.rows.get(criterion.set, ())
    return compute_ratio_interval(
        get_value(judged, criterion),
        get_value(compared, criterion),
        resampling,
        aggregate="mean" if criterion.gain else get_aggregate(criterion),
        rows=rows if all(rows) else None,
    )


def format_criterion(criterion: Criterion) -> str:
    """Return set, metric and attack of a criterion: forget probability, forget probability under relearn."""
    has_set_in_name = criterion.metric.startswith(f"{criterion.set}_")  # not "forget forget_quality"
    set_name = "" if has_set_in_name else f"{criterion.set} "
    gain = " gained" if criterion.gain else ""
    return f"{set_name}{criterion.metric}{gain}" + (f" under {criterion.attack}" if criterion.attack else "")
