"""What a search varies and measures, and the specs that a search or an ensemble refuses."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from soul_core.spec import JobSpec
from soul_core.spec.strategy import make_search_space, select_search_criteria
from soul_core.spec.validation import format_spec_problems

SETS = {"forget", "retain"}
UTILITY = {"set": "all", "metric": "model_utility", "at_least": 0.9, "relative_to_base": True}
QUALITY = {"set": "forget", "metric": "forget_quality", "at_least": 0.05}
FORGOTTEN = {"set": "forget", "metric": "probability", "at_most": 0.1}


def spec(*criteria: dict[str, Any], **changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"strategy": {"kind": "search"}, "criteria": criteria or [FORGOTTEN], "attacks": [], **changes}
    )


def test_a_search_varies_learning_rate_and_retain_weight_around_the_spec() -> None:
    detox = spec(optimizer={"kind": "adamw", "lr": 0.3}, retain={"kind": "nll", "weight": 0.1})

    assert make_search_space(detox) == {
        "optimizer.lr": pytest.approx((0.03, 1.0)),  # no rate is above 1
        "retain.weight": pytest.approx((0.01, 1.0)),
    }
    assert make_search_space(spec(strategy={"kind": "search", "lr": [1e-5, 1e-4]}))["optimizer.lr"] == (1e-5, 1e-4)


@pytest.mark.parametrize("changes", [{"kind": "finetune"}, {"retain": {"kind": "none"}}])
def test_no_weight_is_searched_that_would_only_scale_the_loss(changes: dict[str, Any]) -> None:
    assert list(make_search_space(spec(**changes))) == ["optimizer.max_rise"]
    weighted = spec(strategy={"kind": "search", "retain_weight": [1, 2]}, **changes)
    problem = "strategy.retain_weight: there is no retain term to weigh against another; leave it out"
    assert problem in format_spec_problems(weighted, {*SETS, "train"})


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ([UTILITY], "criteria.0: .* model_utility on the sets real_authors, world_facts, which the job does not have"),
        (
            [{**FORGOTTEN, "set": "retian"}],
            "criteria.0: .* probability on the set 'retian', which the job does not have",
        ),
        (
            [{**UTILITY, "set": "retain"}],
            "criteria.0: model_utility belongs to the set 'all', not to 'retain'; change the set",
        ),
        (
            [FORGOTTEN, QUALITY],
            "criteria.1: forget_quality compares with a retrained model, and there is none; give one",
        ),
        ([{**FORGOTTEN, "set": "forget_question"}], "criteria.0: .* on the set 'forget_question'"),
        ([{**FORGOTTEN, "attack": "quantize_4bit"}], "a search needs criteria to meet"),
    ],
)
def test_a_criterion_that_a_search_cannot_measure_is_refused(criteria: list[dict[str, Any]], message: str) -> None:
    (problem,) = format_spec_problems(spec(*criteria, attacks=[{"kind": "quantize"}]), SETS)

    assert re.search(message, problem)


def test_a_search_does_not_measure_criteria_that_only_the_verdict_needs() -> None:
    both = spec(FORGOTTEN, QUALITY, {**FORGOTTEN, "set": "forget_question"}, evaluation={"probes": ["question"]})

    assert [criterion.set for criterion in select_search_criteria(both, ["forget", "retain"])] == [
        "forget",
        "forget_question",
    ]
    assert format_spec_problems(both, SETS, models={"retrained"}) == []
    assert "a search needs criteria to meet" in format_spec_problems(spec(QUALITY), SETS, models={"retrained"})[0]


def test_a_search_or_a_choice_needs_criteria_that_can_fail() -> None:
    learn = {"kind": "finetune", "strategy": {"kind": "search"}}
    assert "give the values to reach" in format_spec_problems(JobSpec.model_validate(learn), {"train"})[0]
    best = spec(criteria=[], strategy={"kind": "ensemble", "merge": "best", "members": [{"seed": 1}, {"seed": 2}]})
    assert "'best' chooses by the criteria" in format_spec_problems(best, SETS)[0]


def test_search_bounds_are_in_order_and_within_those_of_the_settings() -> None:
    for bounds, message in (([1e-3, 1e-5], "give the smaller one first"), ([0.1, 2], "less than or equal to 1")):
        with pytest.raises(ValidationError, match=message):
            spec(strategy={"kind": "search", "lr": bounds})


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"optimizer": {"kind": "influence", "iterations": 4}}, "optimizer"),
        (
            {"strategy": {"kind": "ensemble", "members": [{}, {"optimizer": {"kind": "influence"}}]}},
            "strategy.members.1.optimizer",
        ),
    ],
)
def test_influence_as_an_optimizer_is_refused_with_its_place(spec: dict[str, Any], place: str) -> None:
    expected = '\'influence\' is not an optimizer but a strategy: set strategy to {"kind": "influence"}'

    with pytest.raises(ValidationError, match=re.escape(expected)) as caught:
        JobSpec.model_validate(spec)

    assert place in str(caught.value)
