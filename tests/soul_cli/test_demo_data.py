"""The examples are readable, share no question, and their spec is valid."""

import itertools
import json
from pathlib import Path

import pytest

from soul_cli.demo import EXAMPLES_FOLDER, SET_DESCRIPTIONS
from soul_core.data import read_rows
from soul_core.spec import JobSpec

NAMES = tuple(SET_DESCRIPTIONS)


def read_prompts(name: str) -> set[str]:
    return {row.messages[-1].content for row in read_rows(EXAMPLES_FOLDER / f"{name}.jsonl").rows if row.messages}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_usable(name: str) -> None:
    reading = read_rows(EXAMPLES_FOLDER / f"{name}.jsonl")
    assert reading.problems == ()
    assert len(reading.rows) >= 8


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(NAMES, 2)])
def test_no_question_is_in_two_sets(first: str, second: str) -> None:
    assert not read_prompts(first) & read_prompts(second), "rows measured as unseen must not be trained on"


def test_the_sets_to_retain_do_not_mention_the_topic_to_forget() -> None:
    for name in ("retain", "neighbors", "general"):
        text = (EXAMPLES_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
        assert not [word for word in ("France", "French", "Paris", "Seine", "Louvre", "Eiffel") if word in text]


def test_the_answers_of_measured_sets_are_the_fact_alone() -> None:
    """A sentence would repeat the question's words, and hide that the model has forgotten."""
    for name in ("rephrased", "neighbors"):
        for row in read_rows(EXAMPLES_FOLDER / f"{name}.jsonl").rows:
            assert len(row.completion.split()) == 1, row
            assert row.completion.lower() not in row.messages[-1].content.lower().split()


def test_the_spec_is_valid_and_judges_existing_sets() -> None:
    spec = JobSpec.model_validate(json.loads((EXAMPLES_FOLDER / "spec.json").read_text()))
    assert spec.optimizer.kind == "sophia"
    assert {criterion.set for criterion in spec.criteria} == {"forget", "rephrased", "retain", "neighbors"}
    assert {criterion.set for criterion in spec.criteria} <= set(NAMES)


def test_every_example_is_used_by_the_demo() -> None:
    assert {path.stem for path in EXAMPLES_FOLDER.glob("*.jsonl")} == set(NAMES)
    assert Path(EXAMPLES_FOLDER / "spec.json").is_file()
