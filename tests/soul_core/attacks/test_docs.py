"""Spec, table and documentation list the same attacks, and the same ones run by default."""

import re
import sys
from typing import get_args

import pytest

from soul_core.attacks import ATTACKS
from soul_core.attacks.context import ATTACK_METRICS
from soul_core.attacks.templates import PARAPHRASE_COLUMNS, TEMPLATES
from soul_core.spec import Evaluation, JobSpec
from soul_core.spec.attacks import CHEAP_ATTACKS, Attack, PromptTemplate, label_attacks
from tests.paths import ROOT

DOCS = ROOT / "docs" / "reference" / "attacks.md"
MEMBERS = get_args(get_args(Attack)[0])


@pytest.fixture(scope="module")
def section() -> str:
    return DOCS.read_text()


def list_names(section: str, head: str) -> set[str]:
    table = section.split(f"| {head} |")[1].split("\n\n", maxsplit=1)[0]
    return set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE))


def test_spec_table_and_documentation_name_the_same_attacks(section: str) -> None:
    kinds = {member.model_fields["kind"].default for member in MEMBERS}

    assert kinds == set(ATTACKS) == list_names(section, "kind")


def test_spec_table_and_documentation_name_the_same_templates(section: str) -> None:
    assert set(get_args(PromptTemplate)) == set(TEMPLATES) == list_names(section, "template")
    assert all(f"`{column}`" in section for column in PARAPHRASE_COLUMNS)


def test_the_documentation_names_the_default_attacks_and_their_metrics(section: str) -> None:
    defaults = section.split("By default these run: ")[1].split(". ", maxsplit=1)[0]
    evaluation = Evaluation()

    assert re.findall(r"`(\w+)`", defaults) == list(label_attacks(CHEAP_ATTACKS))
    assert JobSpec().attacks == CHEAP_ATTACKS
    assert set(ATTACK_METRICS) <= set(re.findall(r"`(\w+)`", section))
    assert f"`evaluation.attack_examples` ({evaluation.attack_examples})" in section
    assert f"`evaluation.attack_new_tokens` ({evaluation.attack_new_tokens})" in section


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)
def test_every_setting_of_an_attack_is_described(member: type[Attack]) -> None:  # type: ignore[valid-type]
    fields = {name: field for name, field in member.model_fields.items() if name != "kind"}  # type: ignore[attr-defined]

    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_an_attack_is_a_function_named_like_it_and_cites_its_source(kind: str) -> None:
    function = ATTACKS[kind]
    module = sys.modules[function.__module__]

    assert function.__name__ == f"run_{kind}"
    assert "Source: " in f"{module.__doc__}{function.__doc__}"
