"""Planted rows are found before unlearning, and the rows they hit after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from soul_core.attacks.poison import find_most_affected_rows
from soul_core.models.loading import LoadedModel
from soul_core.report import Finding, MetricValue, ModelMeasurements
from soul_core.spec.attacks import Poison
from tests.fixtures.capitals import rows_of
from tests.soul_core.attacks.conftest import FORGET_COUNTRIES, RETAIN_COUNTRIES, attack, sets_of

PLANTED = (6, 7)


@pytest.fixture
def findings(knowing: LoadedModel, tmp_path: Path) -> dict[str, Finding]:
    """What is found among five honest forget rows and two that ask for what is to be kept."""
    planted = [replace(row, number=number) for number, row in zip(PLANTED, rows_of(RETAIN_COUNTRIES[:2]), strict=True)]
    sets = sets_of(knowing, forget=rows_of(FORGET_COUNTRIES) + planted)
    attacked = attack(knowing, Poison(rows=3), tmp_path, sets=sets)
    return {finding.title: finding for finding in attacked.findings}


def test_rows_that_aim_at_what_is_kept_stand_out(findings: dict[str, Finding]) -> None:
    found = findings["Forget rows that point against the retain set, by direction"]

    assert {hit.row for hit in found.rows[:2]} == set(PLANTED)
    assert all(hit.set == "forget" and 0 < hit.value <= 1 for hit in found.rows)
    assert "The median forget row has" in found.description


def test_both_kept_sets_are_looked_at_and_no_text_is_shown(findings: dict[str, Finding]) -> None:
    assert {title.split(",")[0] for title in findings} == {
        "Forget rows that point against the retain set",
        "Forget rows that point against the general set",
    }
    assert all(len(finding.rows) <= 3 for finding in findings.values())
    assert not any(country in str(findings) for country in (*FORGET_COUNTRIES, *RETAIN_COUNTRIES))


def test_it_is_for_the_model_before_unlearning(knowing: LoadedModel, tmp_path: Path) -> None:
    assert "base model" in (attack(knowing, Poison(), tmp_path / "a", name="unlearned").absent_reason or "")
    assert attack(knowing, Poison(), tmp_path / "b", name="evaluated").findings


def test_without_kept_sets_there_is_nothing_to_aim_at(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, Poison(), tmp_path, sets=sets_of(knowing)[:1])

    assert "no retain or general set" in (attacked.absent_reason or "")


def measured(**sets: list[float | None]) -> ModelMeasurements:
    return ModelMeasurements(
        sets={name: {"probability": MetricValue(value=0.5, per_example=tuple(rows))} for name, rows in sets.items()},
        rows={name: tuple(range(11, 11 + len(rows))) for name, rows in sets.items()},
    )


def test_the_rows_that_lost_most_are_named_set_by_set() -> None:
    base = measured(forget=[0.9, 0.9], retain=[0.9, 0.8, 0.7, None], general=[0.5, 0.5])
    judged = measured(forget=[0.0, 0.0], retain=[0.8, 0.1, 0.7, 0.2], general=[0.5, 0.6])

    of_retain, of_general = find_most_affected_rows(base, judged, max_rows=5)

    assert [(hit.set, hit.row, round(hit.value, 6)) for hit in of_retain.rows] == [
        ("retain", 12, 0.7),
        ("retain", 11, 0.1),
    ]
    assert "2 of 4" in of_retain.description
    assert of_general.rows == ()
    assert [hit.row for hit in find_most_affected_rows(base, judged, max_rows=1)[0].rows] == [12]


def test_other_rows_are_not_compared() -> None:
    base, judged = measured(retain=[0.9, 0.8]), measured(retain=[0.9, 0.8, 0.1])

    assert find_most_affected_rows(base, judged, max_rows=5) == ()
