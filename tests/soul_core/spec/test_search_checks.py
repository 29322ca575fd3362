"""What the spec alone tells of a search, and how far a value is from a goal."""

from typing import Any

import pytest
from pydantic import ValidationError

from soul_core.pipeline.strategies.criteria_check import compute_shortfall
from soul_core.report import CriterionResult
from soul_core.spec import Criterion, JobSpec
from soul_core.spec.checks import format_spec_problems
from soul_core.spec.search_checks import make_search_space, select_search_criteria

SETS = {"forget", "retain"}
UTILITY = {"set": "all", "metric": "model_utility", "at_least": 0.9, "relative_to_base": True}
QUALITY = {"set": "forget", "metric": "forget_quality", "at_least": 0.05}
FORGOTTEN = {"set": "forget", "metric": "probability", "at_most": 0.1}


def spec(*criteria: dict[str, Any], **changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"strategy": {"kind": "search"}, "criteria": criteria or [FORGOTTEN], "attacks": [], **changes}
    )


def test_a_search_varies_rate_and_weight_around_the_spec_s_own() -> None:
    detox = spec(optimizer={"kind": "adamw", "lr": 0.3}, retain={"kind": "nll", "weight": 0.1})

    assert make_search_space(detox) == {
        "optimizer.lr": pytest.approx((0.03, 1.0)),  # no rate is above 1
        "retain.weight": pytest.approx((0.01, 1.0)),
    }
    assert make_search_space(spec(strategy={"kind": "search", "lr": [1e-5, 1e-4]}))["optimizer.lr"] == (1e-5, 1e-4)


@pytest.mark.parametrize("changes", [{"kind": "finetune"}, {"retain": {"kind": "none"}}])
def test_no_weight_is_searched_where_it_would_only_scale_the_loss(changes: dict[str, Any]) -> None:
    assert list(make_search_space(spec(**changes))) == ["optimizer.lr"]
    weighed = spec(strategy={"kind": "search", "retain_weight": [1, 2]}, **changes)
    assert "strategy.retain_weight: there is no retain term" in str(
        list(format_spec_problems(weighed, {*SETS, "train"}))
    )


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ([UTILITY], "criteria.0: .* model_utility on the sets real_authors, world_facts, not given here"),
        ([{**FORGOTTEN, "set": "retian"}], "criteria.0: .* probability on the set 'retian', not given here"),
        ([{**UTILITY, "set": "retain"}], "criteria.0: model_utility is told of the set 'all', not of 'retain'"),
        ([FORGOTTEN, QUALITY], "criteria.1: forget_quality compares with a retrained model; give a reference"),
        ([{**FORGOTTEN, "set": "forget_question"}], "criteria.0: .* on the set 'forget_question'"),
        ([{**FORGOTTEN, "attack": "quantize_4bit"}], "a search needs criteria to hold"),
    ],
)
def test_a_criterion_that_no_look_can_measure_is_refused(criteria: list[dict[str, Any]], message: str) -> None:
    problems = list(format_spec_problems(spec(*criteria, attacks=[{"kind": "quantize"}]), SETS))

    assert len(problems) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems[0])


def test_criteria_of_the_verdict_alone_are_not_looked_at() -> None:
    both = spec(FORGOTTEN, QUALITY, {**FORGOTTEN, "set": "forget_question"}, evaluation={"probes": ["question"]})

    assert [criterion.set for criterion in select_search_criteria(both, ["forget", "retain"])] == [
        "forget",
        "forget_question",
    ]
    assert not list(format_spec_problems(both, SETS, models={"retrained"}))
    assert "a search needs criteria to hold" in next(format_spec_problems(spec(QUALITY), SETS, models={"retrained"}))


def result(value: float | None, **bound: float) -> CriterionResult:
    criterion = Criterion.model_validate({"set": "forget", "metric": "probability", **bound})
    (at,) = bound.values()
    return CriterionResult(criterion=criterion, outcome="failed", value=value, interval=None, bound=at, reason="")


@pytest.mark.parametrize(
    ("value", "bound", "base", "expected"),
    [
        (0.1, {"at_most": 0.2}, 0.8, 0.0),
        (0.5, {"at_most": 0.2}, 0.8, 0.5),  # half of the way from the base
        (0.8, {"at_most": 0.2}, 0.8, 1.0),
        (0.0, {"at_least": 0.9}, 1.0, 1.0),  # all that the base had is lost
        (0.45, {"at_least": 0.9}, 1.0, 0.5),
        (132.0, {"at_most": 33.0}, 30.0, 2 - 1 / 3),  # a perplexity: however high, not everything else beside it
        (None, {"at_most": 0.2}, 0.8, 1.0),
    ],
)
def test_a_criterion_is_missed_by_a_share_of_the_way(
    value: float | None, bound: dict[str, float], base: float, expected: float
) -> None:
    assert compute_shortfall(result(value, **bound), base) == pytest.approx(expected)


def test_a_ruined_model_is_farther_from_the_goal_than_a_nearly_good_one() -> None:
    def total(forget: float, retain: float) -> float:
        return compute_shortfall(result(forget, at_most=0.05), 0.75) + compute_shortfall(
            result(retain, at_least=0.97), 0.99
        )

    assert total(0.149, 0.772) < total(0.0003, 0.0004)


def test_what_cannot_tell_good_from_bad_is_no_goal() -> None:
    learn = {"kind": "finetune", "strategy": {"kind": "search"}}
    assert "say what the model is to reach" in str(list(format_spec_problems(JobSpec.model_validate(learn), {"train"})))
    best = spec(criteria=[], strategy={"kind": "ensemble", "merge": "best", "members": [{"seed": 1}, {"seed": 2}]})
    assert "'best' chooses by the criteria" in str(list(format_spec_problems(best, SETS)))


def test_bounds_are_in_order_and_what_the_settings_allow() -> None:
    for bounds, message in (([1e-3, 1e-5], "the smaller one first"), ([0.1, 2], "less than or equal to 1")):
        with pytest.raises(ValidationError, match=message):
            spec(strategy={"kind": "search", "lr": bounds})
