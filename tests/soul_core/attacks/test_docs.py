"""Spec, table and documentation know the same attacks, and the same ones run by default."""

import re
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


def rows(section: str, head: str) -> set[str]:
    table = section.split(f"| {head} |")[1].split("\n\n", maxsplit=1)[0]
    return set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE))


def test_spec_table_and_documentation_name_the_same_attacks(section: str) -> None:
    kinds = {member.model_fields["kind"].default for member in MEMBERS}

    assert kinds == set(ATTACKS) == rows(section, "kind")


def test_spec_table_and_documentation_name_the_same_ways_of_asking(section: str) -> None:
    assert set(get_args(PromptTemplate)) == set(TEMPLATES) == rows(section, "template")
    assert all(f"`{column}`" in section for column in PARAPHRASE_COLUMNS)


def test_the_documentation_names_what_runs_by_default_and_what_is_measured(section: str) -> None:
    told = section.split("By default these run: ")[1].split(". ", maxsplit=1)[0]
    evaluation = Evaluation()

    assert re.findall(r"`(\w+)`", told) == list(label_attacks(CHEAP_ATTACKS))
    assert JobSpec().attacks == CHEAP_ATTACKS
    assert set(ATTACK_METRICS) <= set(re.findall(r"`(\w+)`", section))
    assert f"`evaluation.attack_examples` ({evaluation.attack_examples})" in section
    assert f"`evaluation.attack_new_tokens` ({evaluation.attack_new_tokens})" in section


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)
def test_every_setting_of_an_attack_is_described(member: type[Attack]) -> None:  # type: ignore[valid-type]
    fields = {name: field for name, field in member.model_fields.items() if name != "kind"}  # type: ignore[attr-defined]

    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("kind", sorted(ATTACKS))
def test_an_attack_is_one_file_named_like_it(kind: str) -> None:
    assert ATTACKS[kind].__module__ == f"soul_core.attacks.{kind}"
    assert "Source: " in (__import__(ATTACKS[kind].__module__, fromlist=[kind]).__doc__ or "")
