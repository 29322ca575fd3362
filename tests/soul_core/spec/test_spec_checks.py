"""What a spec asks against the data sets there are."""

import pytest

from soul_core.errors import BadSpec
from soul_core.spec import Criterion, Evaluation, JobSpec
from soul_core.spec.checks import check_spec, find_spec_problems, format_spec_problems
from soul_core.spec.optimizers import AdamW, Gnb, Sophia
from soul_core.spec.terms import NoRetain


def test_the_default_spec_with_both_sets_is_fine() -> None:
    check_spec(JobSpec(), {"forget", "retain"})


def test_a_missing_retain_set_is_a_problem_only_for_terms_that_need_it() -> None:
    problems = list(format_spec_problems(JobSpec(), {"forget"}))
    assert len(problems) == 2
    assert '{"kind": "none"}' in problems[0]
    assert "'forget'" in problems[1]
    check_spec(JobSpec(retain=NoRetain(), optimizer=AdamW()), {"forget"})
    check_spec(JobSpec(retain=NoRetain(), optimizer=Sophia(curvature=Gnb(data="forget"))), {"forget"})


def test_a_mistyped_metric_is_named_with_its_place_and_near_spelling() -> None:
    spec = JobSpec(
        evaluation=Evaluation(metrics=("probabilty",)), criteria=(Criterion(set="forget", metric="zzz", at_most=1),)
    )
    with pytest.raises(BadSpec) as caught:
        check_spec(spec, {"forget", "retain"})
    assert "did you mean 'probability'?" in caught.value.details[0]
    assert caught.value.details[1].startswith("criteria.0.metric: unknown metric 'zzz'; known metrics: probability")


def test_no_forget_set_is_a_problem() -> None:
    with pytest.raises(BadSpec, match="no forget set"):
        check_spec(JobSpec(), {"retain"})


def test_what_an_ensembles_recipes_take_over_is_told_once_and_what_all_replace_is_fine() -> None:
    def places(members: list[dict[str, object]], **changes: object) -> list[str]:
        spec = JobSpec.model_validate({"strategy": {"kind": "ensemble", "members": members}, **changes})
        return [place for place, _ in find_spec_problems(spec, {"forget"})]

    plain = {"retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}}
    assert places([plain, {**plain, "seed": 1}]) == []
    assert places([{}, {"seed": 1}]) == ["retain.kind", "optimizer.curvature.data"]
    assert places([{}, {"forget": {"kind": "grad_diff"}, "saliency": {"score": "wagle"}}], **plain) == [
        "strategy.members.1.saliency.score"
    ]
    assert places([{}, {"training": {"max_tokens": 64}}], **plain) == ["strategy.members.1.training.max_tokens"]


def test_a_choice_without_its_kind_is_the_default_one() -> None:
    spec = JobSpec.model_validate({"optimizer": {"lr": 1e-6, "curvature": {"every": 3}}})

    assert (spec.optimizer.kind, spec.optimizer.lr) == ("sophia", 1e-6)
    assert spec == JobSpec.model_validate(spec.model_dump())
