"""Planted rows are found before unlearning, and the rows that they damage after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from soul_core.attacks.poison import find_most_affected_rows
from soul_core.models.loading import LoadedModel
from soul_core.report import Finding, MetricValue, ModelMeasurements
from soul_core.spec.attacks import Poison
from tests.fixtures.capitals import rows_of
from tests.soul_core.attacks.conftest import FORGET_COUNTRIES, RETAIN_COUNTRIES, attack, make_sets

PLANTED = (6, 7)


@pytest.fixture
def findings(knowing: LoadedModel, tmp_path: Path) -> dict[str, Finding]:
    """The findings on five honest forget rows and two that ask for facts of the retain set."""
    planted = [replace(row, number=number) for number, row in zip(PLANTED, rows_of(RETAIN_COUNTRIES[:2]), strict=True)]
    sets = make_sets(knowing, forget=rows_of(FORGET_COUNTRIES) + planted)
    outcome = attack(knowing, Poison(rows=3), tmp_path, sets=sets)
    return {finding.title: finding for finding in outcome.findings}


def test_rows_planted_against_the_retain_set_rank_first(findings: dict[str, Finding]) -> None:
    finding = findings["Forget rows that point against the retain set, by direction"]

    assert {flagged.row for flagged in finding.rows[:2]} == set(PLANTED)
    assert all(flagged.set == "forget" and 0 < flagged.value <= 1 for flagged in finding.rows)
    assert "The median forget row has" in finding.description


def test_both_protected_sets_are_compared_and_no_text_is_shown(findings: dict[str, Finding]) -> None:
    assert {title.split(",")[0] for title in findings} == {
        "Forget rows that point against the retain set",
        "Forget rows that point against the general set",
    }
    assert all(len(finding.rows) <= 3 for finding in findings.values())
    assert not any(country in str(findings) for country in (*FORGET_COUNTRIES, *RETAIN_COUNTRIES))


def test_it_runs_on_the_model_before_unlearning_only(knowing: LoadedModel, tmp_path: Path) -> None:
    assert "base model" in (attack(knowing, Poison(), tmp_path / "a", name="unlearned").absent_reason or "")
    assert attack(knowing, Poison(), tmp_path / "b", name="evaluated").findings


def test_without_a_protected_set_it_is_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, Poison(), tmp_path, sets=make_sets(knowing)[:1])

    assert "no retain or general set" in (outcome.absent_reason or "")


def make_measurements(**sets: list[float | None]) -> ModelMeasurements:
    return ModelMeasurements(
        sets={name: {"probability": MetricValue(value=0.5, per_example=tuple(rows))} for name, rows in sets.items()},
        rows={name: tuple(range(11, 11 + len(rows))) for name, rows in sets.items()},
    )


def test_the_rows_that_lost_most_are_listed_for_each_set() -> None:
    base = make_measurements(forget=[0.9, 0.9], retain=[0.9, 0.8, 0.7, None], general=[0.5, 0.5])
    judged = make_measurements(forget=[0.0, 0.0], retain=[0.8, 0.1, 0.7, 0.2], general=[0.5, 0.6])

    of_retain, of_general = find_most_affected_rows(base, judged, max_rows=5)

    assert [(flagged.set, flagged.row, round(flagged.value, 6)) for flagged in of_retain.rows] == [
        ("retain", 12, 0.7),
        ("retain", 11, 0.1),
    ]
    assert "2 of 4" in of_retain.description
    assert of_general.rows == ()
    assert [flagged.row for flagged in find_most_affected_rows(base, judged, max_rows=1)[0].rows] == [12]


def test_other_rows_are_not_compared() -> None:
    base, judged = make_measurements(retain=[0.9, 0.8]), make_measurements(retain=[0.9, 0.8, 0.1])

    assert find_most_affected_rows(base, judged, max_rows=5) == ()
