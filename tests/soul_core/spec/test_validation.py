"""A spec against the data sets and models of a job: every problem has a place and a remedy."""

from typing import Any

import pytest

from soul_core.errors import BadSpec
from soul_core.spec import Criterion, Evaluation, JobSpec
from soul_core.spec.optimizers import AdamW, Gnb, Sophia
from soul_core.spec.terms import Kl, Nll, NoRetain
from soul_core.spec.validation import check_spec, find_spec_problems, format_spec_problems


def test_the_default_spec_with_both_sets_passes() -> None:
    check_spec(JobSpec(), {"forget", "retain"})


def test_a_missing_retain_set_is_a_problem_only_for_terms_that_need_it() -> None:
    problems = format_spec_problems(JobSpec.model_validate({"data": {"auto_retain": {"kind": "off"}}}), {"forget"})
    assert len(problems) == 2
    assert '{"kind": "none"}' in problems[0]
    assert "'forget'" in problems[1]
    check_spec(JobSpec(retain=NoRetain(), optimizer=AdamW()), {"forget"})
    check_spec(JobSpec(retain=NoRetain(), optimizer=Sophia(curvature=Gnb(data="forget"))), {"forget"})


def test_a_fine_tuning_does_not_scale_its_only_term() -> None:
    assert JobSpec.model_validate({"kind": "finetune"}).retain == Nll(weight=1)


def test_without_a_retain_set_the_default_spec_makes_one_and_holds_it_by_kl() -> None:
    check_spec(JobSpec(), {"forget"})
    assert JobSpec().complete({"forget"}).retain == Kl(weight=10)
    assert JobSpec().complete({"forget", "retain"}).retain == Nll(weight=10)


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec(retain=Nll()),
        JobSpec(retain=NoRetain()),
        JobSpec.model_validate({"data": {"auto_retain": {"kind": "off"}}}),
        JobSpec.model_validate({"strategy": {"kind": "influence"}}),
        JobSpec.model_validate({"kind": "evaluate"}),
    ],
)
def test_a_named_term_and_a_job_without_a_generated_set_stay_as_they_are(spec: JobSpec) -> None:
    assert spec.complete({"forget"}).retain == spec.retain


def test_what_is_said_afterwards_is_measured_and_judged_by_default() -> None:
    spec = JobSpec.model_validate({"after": {"kind": "refuse", "refusals": ["Ask someone else."]}})
    judged = [(criterion.set, criterion.at_least) for criterion in spec.criteria if criterion.metric == "refusal_rate"]
    assert judged == [("forget", 0.75), ("retain", None), ("retain_held_out", None)]
    completed = spec.complete({"forget", "retain"})
    assert "refusal_rate" in completed.evaluation.metrics
    assert completed.evaluation.refusals == ("Ask someone else.",)
    assert completed.complete({"forget", "retain"}) == completed


@pytest.mark.parametrize(
    ("changes", "sets", "place"),
    [
        ({"kind": "finetune"}, {"train"}, "after"),
        ({"kind": "evaluate"}, {"forget"}, "after"),
        ({"strategy": {"kind": "influence"}}, {"forget", "retain"}, "after.kind"),
    ],
)
def test_only_a_training_that_forgets_learns_what_to_say(
    changes: dict[str, object], sets: set[str], place: str
) -> None:
    spec = JobSpec.model_validate({"after": {"kind": "unknown"}, **changes})
    assert place in [problem.place for problem in find_spec_problems(spec, sets)]


def test_a_mistyped_metric_is_named_with_its_place_and_near_spelling() -> None:
    spec = JobSpec(
        evaluation=Evaluation(metrics=("probabilty",)), criteria=(Criterion(set="forget", metric="zzz", at_most=1),)
    )
    with pytest.raises(BadSpec, match="the spec has 2 problems; correct each of them") as caught:
        check_spec(spec, {"forget", "retain"})
    assert "did you mean 'probability'?" in caught.value.details[0]
    assert caught.value.details[1].startswith("criteria.0.metric: unknown metric 'zzz'; known metrics: probability")


def test_a_missing_forget_set_is_a_problem() -> None:
    with pytest.raises(BadSpec, match="there is no forget set; give the rows that the model must forget"):
        check_spec(JobSpec(), {"retain"})


@pytest.mark.parametrize(
    ("models", "has_log", "problem"),
    [
        ({"retrained"}, True, "the retrained model is given twice, as a model and as a log; leave one out"),
        ({"Other"}, False, "'Other' cannot name a model; use lower-case letters, digits and _, a letter first"),
        ({"unlearned"}, False, "the report uses the name 'unlearned' for the job's own model; choose another name"),
        (
            {"other"},
            False,
            "a job of kind 'unlearn' measures no model 'other', only 'retrained'; compare models with kind 'evaluate'",
        ),
    ],
)
def test_further_models_need_a_name_that_the_report_can_use(models: set[str], has_log: bool, problem: str) -> None:
    assert format_spec_problems(JobSpec(), {"forget", "retain"}, models=models, has_retrained_log=has_log) == [problem]


def test_two_attacks_of_one_label_are_refused() -> None:
    spec = JobSpec.model_validate({"attacks": [{"kind": "relearn"}, {"kind": "relearn", "steps": 50}]})

    assert format_spec_problems(spec, {"forget", "retain"}) == [
        "attacks.1: another attack has the label 'relearn'; leave one of them out"
    ]


@pytest.mark.parametrize(
    ("export", "place"), [({"dtype": "float16"}, "export.dtype"), ({"gguf": "f16"}, "export.gguf")]
)
def test_adapters_alone_have_no_export_type_and_no_gguf_file(export: dict[str, str], place: str) -> None:
    spec = JobSpec.model_validate({"lora": {"output": "adapter"}, "export": export})

    assert [problem.place for problem in find_spec_problems(spec, {"forget", "retain"})] == [place]


def test_a_problem_that_members_inherit_is_reported_once_unless_all_replace_it() -> None:
    def list_places(members: list[dict[str, object]], **changes: object) -> list[str]:
        own = {"data": {"auto_retain": {"kind": "off"}}, "strategy": {"kind": "ensemble", "members": members}}
        spec = JobSpec.model_validate({**own, **changes})
        return [problem.place for problem in find_spec_problems(spec, {"forget"})]

    plain = {"retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}}
    assert list_places([plain, {**plain, "seed": 1}]) == []
    assert list_places([{}, {"seed": 1}]) == ["retain.kind", "optimizer.curvature.data"]
    assert list_places([{}, {"forget": {"kind": "grad_diff"}, "saliency": {"score": "wagle"}}], **plain) == [
        "strategy.members.1.saliency.score"
    ]
    assert list_places([{}, {"training": {"max_tokens": 64}}], **plain) == ["strategy.members.1.training.max_tokens"]


def test_a_choice_without_its_kind_is_the_default_one() -> None:
    spec = JobSpec.model_validate({"optimizer": {"lr": 1e-6, "curvature": {"every": 3}}})

    assert (spec.optimizer.kind, spec.optimizer.lr) == ("sophia", 1e-6)
    assert spec == JobSpec.model_validate(spec.model_dump())


@pytest.mark.parametrize(
    ("field", "name"), [("after", "unknown"), ("forget", "simnpo"), ("retain", "kl"), ("optimizer", "adamw")]
)
def test_a_choice_may_be_only_its_name(field: str, name: str) -> None:
    assert JobSpec.model_validate({field: name}) == JobSpec.model_validate({field: {"kind": name}})


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({}, "kfac"),
        ({"strategy": "search"}, "kfac"),
        ({"optimizer": {"lr": 1e-5}}, "sophia"),
        ({"lora": {}}, "sophia"),
        ({"parameters": {"include": ["*mlp*"]}}, "sophia"),
        ({"strategy": "influence"}, "sophia"),
        ({"kind": "finetune"}, "sophia"),
    ],
)
def test_without_an_optimizer_a_job_that_trains_all_weights_has_kfac(content: dict[str, Any], kind: str) -> None:
    assert JobSpec.model_validate(content).complete({"forget", "retain"}).optimizer.kind == kind
