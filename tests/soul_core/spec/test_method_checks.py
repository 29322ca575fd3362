"""Optimizers and wrappers that do not go together are refused, each with its place."""

from typing import Any

import pytest

from soul_core.spec import JobSpec
from soul_core.spec.method_checks import find_method_problems

BOTH = {"forget", "retain"}


def places(spec: dict[str, Any], sets: set[str] | None = None) -> list[str]:
    return [place for place, _ in find_method_problems(JobSpec.model_validate(spec), sets or BOTH)]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"optimizer": {"kind": "influence"}},
        {"optimizer": {"kind": "influence"}, "forget": {"kind": "grad_diff"}, "lora": {}},
        {"optimizer": {"kind": "influence"}, "training": {"micro_batch_tokens": 512, "max_tokens": 64}},
        {"saliency": {}, "sharpness": {}, "parameters": {"include": ["*mlp*"]}},
        {"lora": {"output": "adapter"}, "sharpness": {}},
        {"kind": "finetune", "lora": {}, "parameters": {"exclude": ["*norm*"]}, "training": {"epochs": 3}},
        {"kind": "evaluate"},
    ],
)
def test_what_goes_together_is_fine(spec: dict[str, Any]) -> None:
    assert places(spec) == []


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"optimizer": {"kind": "influence"}, "kind": "finetune"}, "optimizer.kind"),
        ({"optimizer": {"kind": "influence"}, "forget": {"kind": "refusal"}}, "forget.kind"),
        ({"optimizer": {"kind": "influence"}, "forget": {"kind": "npo", "beta": 0.7}}, "forget.kind"),
        ({"optimizer": {"kind": "influence"}, "forget": {"kind": "grad_diff", "weight": 5}}, "forget.kind"),
        ({"optimizer": {"kind": "influence"}, "retain": {"kind": "kl"}}, "retain.kind"),
        ({"optimizer": {"kind": "influence"}, "retain": {"weight": 3}}, "retain.kind"),
        ({"optimizer": {"kind": "influence"}, "training": {"steps": 7}}, "training.steps"),
        ({"optimizer": {"kind": "influence"}, "training": {"schedule": "cosine"}}, "training.schedule"),
        ({"optimizer": {"kind": "influence"}, "sharpness": {}}, "sharpness"),
        ({"kind": "finetune", "sharpness": {}}, "sharpness"),
        ({"kind": "finetune", "saliency": {}}, "saliency"),
        ({"saliency": {}, "lora": {}}, "saliency"),
        ({"kind": "evaluate", "lora": {}}, "lora"),
        ({"kind": "evaluate", "parameters": {"include": ["a"]}}, "parameters"),
    ],
)
def test_what_does_not_is_refused_at_its_place(spec: dict[str, Any], place: str) -> None:
    assert places(spec) == [place]


def test_what_needs_a_retain_set_says_so() -> None:
    assert places({"optimizer": {"kind": "influence"}}, {"forget"}) == ["optimizer.kind"]
    assert places({"saliency": {"score": "relative"}}, {"forget"}) == ["saliency.score"]
    assert places({"saliency": {}}, {"forget"}) == []
