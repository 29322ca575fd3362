"""Terms, optimizers and wrappers that do not go together are refused, each with its place and a remedy."""

from typing import Any

import pytest

from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.spec import JobSpec
from soul_core.spec.validation import find_spec_problems

BOTH = {"forget", "retain"}
REFUSED_PAIRS = {(forget, "rmu_retain") for forget in FORGET_TERMS if forget != "rmu"} | {("pdu", "none")}


def list_places(spec: dict[str, Any], sets: set[str] | None = None) -> list[str]:
    return [place for place, _ in find_spec_problems(JobSpec.model_validate(spec), sets or BOTH)]


@pytest.mark.parametrize("forget", FORGET_TERMS)
@pytest.mark.parametrize("retain", [*RETAIN_TERMS, "none"])
def test_a_forget_term_goes_with_a_retain_term_unless_there_is_a_reason(forget: str, retain: str) -> None:
    places = list_places({"forget": {"kind": forget}, "retain": {"kind": retain}})

    assert places == (["retain.kind"] if (forget, retain) in REFUSED_PAIRS else [])


@pytest.mark.parametrize(
    ("forget", "retain", "reason"),
    [("npo", "rmu_retain", "hidden states that forget.kind 'rmu' steers"), ("pdu", "none", "bounds the retain loss")],
)
def test_a_refused_pair_of_terms_says_why_and_what_to_use(forget: str, retain: str, reason: str) -> None:
    spec = JobSpec.model_validate({"forget": {"kind": forget}, "retain": {"kind": retain}})

    problems = dict(find_spec_problems(spec, BOTH))

    assert reason in problems["retain.kind"]
    assert "use 'nll' or 'kl'" in problems["retain.kind"]


@pytest.mark.parametrize(
    ("spec", "sets"),
    [
        ({}, BOTH),
        ({"strategy": {"kind": "influence"}}, BOTH),
        ({"strategy": {"kind": "influence"}, "forget": {"kind": "grad_diff"}, "lora": {}}, BOTH),
        ({"strategy": {"kind": "influence"}, "training": {"micro_batch_tokens": 512, "max_tokens": 64}}, BOTH),
        ({"saliency": {}, "sharpness": {}, "parameters": {"include": ["*mlp*"]}}, BOTH),
        ({"lora": {"output": "adapter"}, "sharpness": {}}, BOTH),
        ({"latent": {}, "sharpness": {}, "saliency": {}}, BOTH),
        ({"kind": "finetune", "lora": {}, "parameters": {"exclude": ["*norm*"]}, "training": {"epochs": 3}}, {"train"}),
        ({"kind": "evaluate"}, BOTH),
    ],
)
def test_settings_that_go_together_pass(spec: dict[str, Any], sets: set[str]) -> None:
    assert list_places(spec, sets) == []


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"strategy": {"kind": "influence"}, "kind": "finetune"}, "strategy.kind"),
        ({"strategy": {"kind": "influence"}, "forget": {"kind": "refusal"}}, "forget.kind"),
        ({"strategy": {"kind": "influence"}, "forget": {"kind": "npo", "beta": 0.7}}, "forget.kind"),
        ({"strategy": {"kind": "influence"}, "forget": {"kind": "grad_diff", "weight": 5}}, "forget.kind"),
        ({"strategy": {"kind": "influence"}, "retain": {"kind": "kl"}}, "retain.kind"),
        ({"strategy": {"kind": "influence"}, "retain": {"weight": 3}}, "retain.kind"),
        ({"strategy": {"kind": "influence"}, "training": {"steps": 7}}, "training.steps"),
        ({"strategy": {"kind": "influence"}, "training": {"schedule": "cosine"}}, "training.schedule"),
        ({"strategy": {"kind": "influence"}, "sharpness": {}}, "sharpness"),
        ({"strategy": {"kind": "influence"}, "optimizer": {"kind": "adamw"}}, "optimizer"),
        ({"kind": "finetune", "sharpness": {}}, "sharpness"),
        ({"kind": "finetune", "latent": {}}, "latent"),
        ({"kind": "finetune", "robust": True}, "robust"),
        ({"kind": "finetune", "data": {"paraphrases": 1}}, "data.paraphrases"),
        ({"strategy": {"kind": "influence"}, "data": {"paraphrases": 1}}, "data.paraphrases"),
        ({"strategy": {"kind": "influence"}, "latent": {}}, "latent"),
        ({"kind": "finetune", "saliency": {}}, "saliency"),
        ({"saliency": {}, "lora": {}}, "saliency"),
        ({"kind": "evaluate", "lora": {}}, "lora"),
        ({"kind": "evaluate", "parameters": {"include": ["a"]}}, "parameters"),
        ({"kind": "evaluate", "export": {"dtype": "float32"}}, "export"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_at_its_place(spec: dict[str, Any], place: str) -> None:
    assert list_places(spec, {*BOTH, "train"}) == [place]


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ({"strategy": {"kind": "influence"}, "retain": {"kind": "none"}}, ["strategy.kind", "retain.kind"]),
        (
            {"saliency": {"score": "relative"}, "retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}},
            ["saliency.score"],
        ),
        ({"saliency": {}, "retain": {"kind": "none"}, "optimizer": {"kind": "adamw"}}, []),
    ],
)
def test_a_setting_that_needs_a_retain_set_says_so(spec: dict[str, Any], places: list[str]) -> None:
    assert list_places(spec, {"forget"}) == places
