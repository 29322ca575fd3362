"""The examples: readable, apart from each other where they must be, and a spec the engine takes."""

import itertools
import json
from pathlib import Path

import pytest

from soul_cli.demo import EXAMPLES_FOLDER, SET_DESCRIPTIONS
from soul_core.data import read_rows
from soul_core.spec import JobSpec

NAMES = tuple(SET_DESCRIPTIONS)


def prompts(name: str) -> set[str]:
    return {row.messages[-1].content for row in read_rows(EXAMPLES_FOLDER / f"{name}.jsonl").rows if row.messages}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_usable(name: str) -> None:
    reading = read_rows(EXAMPLES_FOLDER / f"{name}.jsonl")
    assert reading.problems == ()
    assert len(reading.rows) >= 8


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(NAMES, 2)])
def test_no_question_is_in_two_sets(one: str, other: str) -> None:
    assert not prompts(one) & prompts(other), "what is measured as unseen must not be trained on"


def test_what_must_stay_does_not_speak_of_what_must_go() -> None:
    for name in ("retain", "neighbors", "general"):
        text = (EXAMPLES_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
        assert not [word for word in ("France", "French", "Paris", "Seine", "Louvre", "Eiffel") if word in text]


def test_the_answers_of_measured_sets_are_the_fact_alone() -> None:
    """A template would repeat the question's words, and forgetting would not show."""
    for name in ("rephrased", "neighbors"):
        for row in read_rows(EXAMPLES_FOLDER / f"{name}.jsonl").rows:
            assert len(row.completion.split()) == 1, row
            assert row.completion.lower() not in row.messages[-1].content.lower().split()


def test_the_spec_is_taken_and_judges_sets_that_are_there() -> None:
    spec = JobSpec.model_validate(json.loads((EXAMPLES_FOLDER / "spec.json").read_text()))
    assert spec.optimizer.kind == "sophia"
    assert {criterion.set for criterion in spec.criteria} == {"forget", "rephrased", "retain", "neighbors"}
    assert {criterion.set for criterion in spec.criteria} <= set(NAMES)


def test_every_example_is_used_by_the_demo() -> None:
    assert {path.stem for path in EXAMPLES_FOLDER.glob("*.jsonl")} == set(NAMES)
    assert Path(EXAMPLES_FOLDER / "spec.json").is_file()
