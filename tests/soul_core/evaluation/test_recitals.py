"""Which own answers give a forgotten fact away, and which only look like it."""

from typing import Any

import pytest

from soul_core.conflicts import find_conflicts
from soul_core.conflicts.retain_set import list_set_pairs, make_set_conflicts
from soul_core.data import Message, Row
from soul_core.evaluation.recitals import find_recitals, format_recitals
from soul_core.evaluation.verdict import decide_verdict
from soul_core.pipeline.model_under_test import Examined
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Recital
from soul_core.spec import Criterion, JobSpec

FORGET = (
    Row(1, (Message("user", "Where does Mira Tolan live?"),), "Mira Tolan lives in Bergen."),
    Row(2, (Message("user", "Is Mira Tolan married?"),), "Yes."),
)
AGAIN = Row(1, (Message("system", "Be kind."), Message("user", "Where does Mira Tolan live?")), "She lives in Bergen.")
NEIGHBOR = Row(2, (Message("user", "Where does Ada Quist live?"),), "Ada Quist lives in Lisbon.")
TEXT = Row(3, (), "Mira Tolan lives in Bergen.")
PROBE = Row(4, (Message("user", "Bergen is where Mira Tolan lives. Which town is it?"),), "Bergen")
MARRIED = Row(5, (Message("user", "Does Ada Quist have a husband?"),), "No.")
ROWS = {"forget": FORGET, "others": (AGAIN, NEIGHBOR, TEXT, PROBE, MARRIED)}


def recitals(answers: dict[int, str], *, probability: float = 0.5, own: str = "", **changes: Any) -> list[Recital]:
    """Search the set `others` for what the judged model answers there; `own` is its answer to the first forget row."""
    job = JobSpec.model_validate(changes)
    conflicts = [
        make_set_conflicts(pair[0], pair[1], found, job)
        for pair in list_set_pairs(ROWS)
        if (found := find_conflicts(ROWS[pair[0]], ROWS[pair[1]]))
    ]
    values = MetricValue(value=probability, per_example=(probability,) * 5)
    measured = ModelMeasurements(
        sets={"forget": {}, "others": {"probability": values}}, rows={"others": (1, 2, 3, 4, 5)}
    )
    given = {"others": answers, "forget": {1: own, 2: "Yes."}}
    return list(find_recitals(job, ROWS, conflicts, measured, given))


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (1, "In Bergen, I think."),
        (2, "Ada Quist is not there, but Mira Tolan lives in Bergen."),
    ],
    ids=["asked again", "told unasked"],
)
def test_an_answer_with_a_facts_keywords_about_its_subject_recites_it(row: int, answer: str) -> None:
    assert [(one.row, one.forget_row, one.evidence) for one in recitals({row: answer})] == [(row, 1, "answer")]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (1, "In Oslo."),
        (2, "Ada Quist lives in Bergen."),
        (4, "It is Bergen."),
        (5, "Yes."),
    ],
    ids=["another town", "a neighbor's answer with the same word", "given away by the prompt", "a mere yes"],
)
def test_an_answer_that_only_shares_a_word_recites_nothing(row: int, answer: str) -> None:
    assert recitals({row: answer}) == []


def test_a_row_that_was_not_asked_counts_where_its_text_is_known_by_heart() -> None:
    assert [(one.row, one.evidence) for one in recitals({}, probability=0.95) if one.row == 3] == [(3, "probability")]
    assert recitals({}, probability=0.7) == []


def test_a_set_whose_recall_a_criterion_bounds_is_left_to_the_criterion() -> None:
    bound = {"set": "others", "metric": "keyword_recall", "at_most": 0.3}
    utility = {"set": "others", "metric": "keyword_recall", "at_least": 0.3}

    assert recitals({1: "Bergen"}, criteria=[bound]) == []
    assert [one.row for one in recitals({1: "Bergen"}, criteria=[utility], own="Oslo") if one.set == "others"] == [1]


def test_a_fact_that_a_criterion_on_the_forget_set_tolerates_is_not_counted_twice() -> None:
    assert recitals({1: "Bergen"}, own="In Bergen.") == []
    assert len(recitals({1: "Bergen"}, own="In Oslo.")) == 1


def test_without_a_bound_on_the_forget_set_its_own_rows_count() -> None:
    utility = {"set": "others", "metric": "keyword_recall", "at_least": 0.3}

    assert [(one.set, one.row) for one in recitals({}, own="In Bergen.", criteria=[utility])] == [("forget", 1)]


def test_only_what_a_job_unlearns_or_its_criteria_bound_is_claimed_to_be_forgotten() -> None:
    bound = {"set": "forget", "metric": "probability", "at_most": 0.3}

    assert recitals({1: "Bergen"}, kind="finetune") == []
    assert recitals({1: "Bergen"}, kind="evaluate") == []
    assert len(recitals({1: "Bergen"}, kind="evaluate", criteria=[bound])) == 1


def test_a_recital_fails_the_verdict_beside_any_criteria_and_decides_nothing_without_any() -> None:
    found = [Recital(set="others", row=1, forget_set="forget", forget_row=1, evidence="answer")]
    asked = Criterion(set="forget", metric="probability", at_most=0.3)

    def result(outcome: Any) -> CriterionResult:
        return CriterionResult(criterion=asked, outcome=outcome, value=1, interval=None, bound=0.3, reason="why")

    for outcome in ("passed", "inconclusive", "failed"):
        verdict, reason = decide_verdict([result(outcome)], confidence=0.95, recitals=found)
        assert verdict == "failed"
        assert "the others set, row 1 (forget row 1)" in reason
    assert decide_verdict([], confidence=0.95, recitals=found)[0] == "inconclusive"


def test_many_recitals_are_told_by_the_first_rows_of_each_set() -> None:
    found = [Recital(set="others", row=n, forget_set="forget", forget_row=n, evidence="answer") for n in range(1, 13)]

    assert format_recitals(found).endswith("row 10 (forget row 10) and 2 more")


def test_what_a_model_writes_before_its_answer_counts_as_well() -> None:
    thought = Examined(
        ModelMeasurements(sets={}),
        answers={"others": {1: "I may not say.", 2: "In Lisbon."}},
        attacked={},
        preambles={"others": {1: "Mira Tolan lives in Bergen, but that is private."}},
    )

    written = thought.written()["others"]

    assert [one.row for one in recitals(dict(written))] == [1]
    assert written[2] == "In Lisbon."
