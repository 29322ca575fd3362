"""Spec, engine and documentation know the same methods."""

import re
from typing import Any, get_args

import pytest

from soul_core.objectives import AFTER_TERMS, FORGET_TERMS, RETAIN_TERMS
from soul_core.optimizers import OPTIMIZERS
from soul_core.pipeline.strategies import STRATEGIES
from soul_core.spec import JobSpec
from soul_core.spec.after import AfterTerm
from soul_core.spec.optimizers import Curvature, Optimizer
from soul_core.spec.strategy import Strategy
from soul_core.spec.terms import ForgetTerm, RetainTerm
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS
from tests.paths import ROOT

DOCS = ROOT / "docs" / "reference" / "methods.md"


def kinds(union: Any) -> set[str]:
    annotated = get_args(union)[0]
    return {member.model_fields["kind"].default for member in get_args(annotated) or (annotated,)}


FAMILIES = [
    ("Forget terms", ForgetTerm, set(FORGET_TERMS)),
    ("Retain terms", RetainTerm, {*RETAIN_TERMS, "none"}),  # none is the absence of a term
    ("What is said instead", AfterTerm, {*AFTER_TERMS, "none"}),
    ("Optimizers", Optimizer, set(OPTIMIZERS)),
    ("Strategies", Strategy, set(STRATEGIES)),
    ("Curvature", Curvature, set(CURVATURE_ESTIMATORS)),
]


@pytest.mark.parametrize(("family", "union", "table"), FAMILIES, ids=[family for family, _, _ in FAMILIES])
def test_spec_table_and_documentation_are_equal(family: str, union: Any, table: set[str]) -> None:
    section = DOCS.read_text().split(f"\n## {family}\n")[1].split("\n## ")[0]

    assert kinds(union) == table == set(re.findall(r"^### `(\w+)`$", section, flags=re.MULTILINE))


def test_every_wrapper_of_the_spec_is_documented() -> None:
    section = DOCS.read_text().split("\n## Wrappers\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"^### `(\w+)`$", section, flags=re.MULTILINE))

    in_spec = {name for name, field in JobSpec.model_fields.items() if "spec.wrappers" in repr_of(field.annotation)}
    assert documented | {"lora"} == in_spec
    assert "\n## LoRA\n" in DOCS.read_text()


def repr_of(annotation: Any) -> str:
    members = get_args(annotation) or (annotation,)
    return " ".join(getattr(member, "__module__", "") for member in members)
