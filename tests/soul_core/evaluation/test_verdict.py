"""Criteria against intervals: every outcome, and reasons that claim no more."""

import pytest
from pydantic import ValidationError

from soul_core.evaluation.criterion_inputs import AttackedModel, AttackedModels
from soul_core.evaluation.verdict import decide_verdict, judge_criteria
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Verdict
from soul_core.spec import DEFAULT_CRITERIA, Criterion

RESAMPLING = Resampling(num_resamples=400, confidence=0.95, seed=0)
NOTHING = ModelMeasurements(sets={})


def model(metric: MetricValue, *, name: str = "probability", data: str = "forget") -> ModelMeasurements:
    return ModelMeasurements(sets={data: {name: metric}})


def outcome(criterion: Criterion, after: MetricValue, before: MetricValue | None = None) -> CriterionResult:
    base = model(before) if before else NOTHING
    (result,) = judge_criteria([criterion], judged=model(after), base=base, resampling=RESAMPLING)
    return result


@pytest.mark.parametrize(
    ("bounds", "interval", "expected"),
    [
        ({"at_most": 0.5}, (0.1, 0.5), "passed"),
        ({"at_most": 0.5}, (0.4, 0.6), "inconclusive"),
        ({"at_most": 0.5}, (0.51, 0.6), "failed"),
        ({"at_least": 0.5}, (0.5, 0.9), "passed"),
        ({"at_least": 0.5}, (0.4, 0.6), "inconclusive"),
        ({"at_least": 0.5}, (0.2, 0.49), "failed"),
    ],
)
def test_the_whole_interval_decides(bounds: dict[str, float], interval: tuple[float, float], expected: Verdict) -> None:
    value = MetricValue(value=sum(interval) / 2, interval=interval, count=9)
    assert outcome(Criterion(set="forget", metric="probability", **bounds), value).outcome == expected


def test_a_bound_relative_to_the_base_is_returned_in_the_metrics_unit() -> None:
    before, after = summarize([0.8, 0.6, 0.7] * 5, RESAMPLING), summarize([0.08, 0.06, 0.07] * 5, RESAMPLING)
    criterion = Criterion(set="forget", metric="probability", at_most=0.25, relative_to_base=True)
    result = outcome(criterion, after, before)
    assert result.outcome == "passed"
    assert result.bound == pytest.approx(0.25 * 0.7)
    assert result.interval == (pytest.approx(0.07), pytest.approx(0.07))
    assert result.reason == "0.1 [0.1, 0.1] times the base model's 0.7; required is at most 0.25"


def test_rows_are_paired_so_a_model_that_kept_all_passes_on_varied_rows() -> None:
    rows = [0.05 * i for i in range(1, 20)]
    criterion = Criterion(set="forget", metric="probability", at_least=0.9, relative_to_base=True)
    after = summarize([0.97 * value for value in rows], RESAMPLING)
    assert outcome(criterion, after, summarize(rows, RESAMPLING)).outcome == "passed"


def test_a_factor_of_the_truth_ratio_uses_the_forget_sets_aggregate() -> None:
    after = summarize([1.0] * 9, RESAMPLING, aggregate="truth_ratio_forget")
    before = summarize([4.0] * 9, RESAMPLING, aggregate="truth_ratio_forget")
    criterion = Criterion(set="forget", metric="truth_ratio", at_least=2.0, relative_to_base=True)
    base = model(before, name="truth_ratio")
    (result,) = judge_criteria([criterion], judged=model(after, name="truth_ratio"), base=base, resampling=RESAMPLING)
    assert result.outcome == "passed"
    assert result.interval == (1.0, 1.0)


def test_an_untouched_model_fails() -> None:
    rows = summarize([0.5, 0.7, 0.9, 0.4], RESAMPLING)
    criterion = Criterion(set="forget", metric="probability", at_most=0.25, relative_to_base=True)
    assert outcome(criterion, rows, rows).outcome == "failed"


def test_a_base_value_of_zero_is_inconclusive() -> None:
    zero = summarize([0.0, 0.0, 0.0], RESAMPLING)
    criterion = Criterion(set="forget", metric="probability", at_most=0.5, relative_to_base=True)
    result = outcome(criterion, zero, zero)
    assert result.outcome == "inconclusive"
    assert "absolute" in result.reason


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (Criterion(set="retain", metric="probability", at_least=0.1), "no retain set was given"),
        (Criterion(set="forget", metric="rouge_l", at_most=0.1), "rouge_l is not among the metrics"),
        (Criterion(set="forget", metric="probability", at_most=0.1), "the moon was full"),
    ],
)
def test_what_was_not_measured_is_inconclusive_with_the_reason(criterion: Criterion, words: str) -> None:
    result = outcome(criterion, make_absent_value("the moon was full"))
    assert result.outcome == "inconclusive"
    assert result.value is None
    assert words in result.reason


def test_one_row_decides_nothing_unless_intervals_are_turned_off() -> None:
    criterion = Criterion(set="forget", metric="probability", at_most=0.5)
    single = summarize([0.1], RESAMPLING)
    assert outcome(criterion, single).outcome == "inconclusive"
    none = Resampling(num_resamples=0, confidence=0.95, seed=0)
    (result,) = judge_criteria([criterion], judged=model(single), base=NOTHING, resampling=none)
    assert result.outcome == "passed"
    assert result.reason == "0.1; required is at most 0.5 (without an interval: the spec turns them off)"


def test_if_rows_do_not_pair_up_the_base_counts_as_exact() -> None:
    criterion = Criterion(set="forget", metric="probability", at_most=0.5, relative_to_base=True)
    after = MetricValue(value=0.1, interval=(0.05, 0.15), count=9)
    result = outcome(criterion, after, MetricValue(value=0.5, interval=(0.4, 0.6), count=9))
    assert result.outcome == "passed"
    assert result.interval == (pytest.approx(0.05), pytest.approx(0.15))
    assert "taken as exact" in result.reason


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (("passed", "passed"), "passed"),
        (("passed", "inconclusive"), "inconclusive"),
        (("inconclusive", "failed"), "failed"),
        ((), "inconclusive"),
    ],
)
def test_the_worst_criterion_is_the_verdict(outcomes: tuple[Verdict, ...], verdict: Verdict) -> None:
    results = [
        CriterionResult(
            criterion=DEFAULT_CRITERIA["unlearn"][0],
            outcome=criterion_outcome,
            value=0.1,
            interval=None,
            bound=0.2,
            reason=f"reason of {criterion_outcome}",
        )
        for criterion_outcome in outcomes
    ]
    decided, reason = decide_verdict(results, confidence=0.95)
    assert decided == verdict
    assert not any(word in reason.lower() for word in ("erased", "compliant", "guarantee", "removed", "safe"))
    if verdict in {"failed", "inconclusive"} and outcomes:
        assert f"reason of {verdict}" in reason


@pytest.mark.parametrize("rows", [(1, 2, 3, 4), (4, 3, 2, 1)])
def test_rows_of_two_models_pair_by_their_numbers_in_any_order(rows: tuple[int, ...]) -> None:
    values = {1: 0.1, 2: 0.4, 3: 0.6, 4: 0.9}
    before = ModelMeasurements(
        sets={"forget": {"probability": summarize([values[row] for row in rows], RESAMPLING)}}, rows={"forget": rows}
    )
    after = ModelMeasurements(
        sets={"forget": {"probability": summarize([value / 2 for value in values.values()], RESAMPLING)}},
        rows={"forget": (1, 2, 3, 4)},
    )
    criterion = Criterion(set="forget", metric="probability", at_most=0.5, relative_to_base=True)

    (result,) = judge_criteria([criterion], judged=after, base=before, resampling=RESAMPLING)

    assert result.interval == (pytest.approx(0.25), pytest.approx(0.25)), "half of the base's 0.5, row by row"


def test_rows_that_one_of_two_models_lacks_do_not_pair() -> None:
    values = summarize([0.1, 0.4, 0.6, 0.9], RESAMPLING)
    models = [
        ModelMeasurements(sets={"forget": {"probability": values}}, rows={"forget": rows})
        for rows in ((1, 2, 3, 4), (1, 2, 3, 5))
    ]
    criterion = Criterion(set="forget", metric="probability", at_most=1.1, relative_to_base=True)

    (result,) = judge_criteria([criterion], judged=models[0], base=models[1], resampling=RESAMPLING)

    assert "rows do not pair up" in result.reason


BEFORE = [0.1, 0.2, 0.05, 0.15, 0.1]
#: What a model that never saw the rows has under the attack.
RETRAINED_AFTER = [0.2, 0.4, 0.1, 0.3, 0.2]
RECOVERY = Criterion(set="forget", attack="relearn", metric="probability", at_most=1.25, relative_to_retrained=True)
GAIN = RECOVERY.model_copy(update={"gain": True})


def make_attacked(before: list[float], after: list[float]) -> AttackedModel:
    return AttackedModel(*(model(summarize(values, RESAMPLING)) for values in (before, after)))


def judge_attack(
    criterion: Criterion, judged: AttackedModel, retrained: AttackedModel | None, **reasons: str
) -> CriterionResult:
    (result,) = judge_criteria(
        [criterion],
        judged=judged.before,
        base=None,
        retrained=retrained.before if retrained else NOTHING if reasons else None,
        resampling=RESAMPLING,
        attacks={"relearn": AttackedModels(judged=judged, retrained=retrained, **reasons)},
    )
    return result


@pytest.mark.parametrize(("factor", "expected"), [(1.2, "passed"), (1.3, "failed")])
def test_recovery_is_judged_row_by_row_against_the_retrained_models(factor: float, expected: Verdict) -> None:
    judged = make_attacked(BEFORE, [factor * value for value in RETRAINED_AFTER])

    result = judge_attack(RECOVERY, judged, make_attacked(BEFORE, RETRAINED_AFTER))

    assert result.outcome == expected
    assert result.bound == pytest.approx(1.25 * 0.24)
    assert result.interval == (pytest.approx(factor * 0.24), pytest.approx(factor * 0.24)), "rows are paired"
    assert "times the retrained model's 0.24; required is at most 1.25" in result.reason


def test_a_gain_is_what_the_attack_adds_row_by_row() -> None:
    pairs = zip(BEFORE, RETRAINED_AFTER, strict=True)
    judged = make_attacked(BEFORE, [before + 1.2 * (after - before) for before, after in pairs])

    result = judge_attack(GAIN, judged, make_attacked(BEFORE, RETRAINED_AFTER))

    assert result.outcome == "passed"
    assert result.value == pytest.approx(1.2 * 0.12), "the retrained model gains 0.24 - 0.12"
    assert result.bound == pytest.approx(1.25 * 0.12)


def test_a_factor_of_a_gain_that_may_be_zero_decides_nothing() -> None:
    unchanged = make_attacked(BEFORE, [0.1, 0.2, 0.05, 0.14, 0.11])

    result = judge_attack(GAIN, make_attacked(BEFORE, RETRAINED_AFTER), unchanged)

    assert result.outcome == "inconclusive"
    assert "may be 0" in result.reason
    assert "bound the value under the attack" in result.reason


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ({}, "no retrained model was given to compare with; give one"),
        ({"retrained_absent_reason": "memory ran out"}, "relearn was not run on the retrained model: memory ran out"),
    ],
)
def test_without_the_retrained_models_value_recovery_is_inconclusive(reasons: dict[str, str], words: str) -> None:
    result = judge_attack(RECOVERY, make_attacked(BEFORE, RETRAINED_AFTER), None, **reasons)

    assert result.outcome == "inconclusive"
    assert result.value == pytest.approx(0.24), "the judged model's value is known"
    assert words in result.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_to_base": True}, "a factor of one value"),
        ({"gain": True, "attack": None}, "name the attack"),
    ],
)
def test_criteria_that_contradict_themselves_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Criterion.model_validate({**RECOVERY.model_dump(), **changes})
