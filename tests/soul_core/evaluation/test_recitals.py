"""Which answers of the model recite a forgotten fact, and which only share a word with it."""

from typing import Any

import pytest

from soul_core.conflicts import find_conflicts
from soul_core.conflicts.retain_set import list_set_pairs, make_set_conflicts
from soul_core.data import Message, Row
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.recitals import find_recitals, format_recitals
from soul_core.evaluation.verdict import decide_verdict
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


def search(answers: dict[int, str], *, probability: float = 0.5, own: str = "", **changes: Any) -> list[Recital]:
    """Search the answers to the set `others`; `own` is the answer to the first forget row."""
    job = JobSpec.model_validate(changes)
    conflicts = [
        make_set_conflicts(forget_set, other_set, rows, job)
        for forget_set, other_set in list_set_pairs(ROWS)
        if (rows := find_conflicts(ROWS[forget_set], ROWS[other_set]))
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
        (2, "Ada Quist is absent, but Mira Tolan lives in Bergen."),
    ],
    ids=["asked again", "recited without a question"],
)
def test_an_answer_with_a_facts_keywords_about_its_subject_recites_it(row: int, answer: str) -> None:
    assert [(recital.row, recital.forget_row, recital.evidence) for recital in search({row: answer})] == [
        (row, 1, "answer")
    ]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (1, "In Oslo."),
        (2, "Ada Quist lives in Bergen."),
        (4, "It is Bergen."),
        (5, "Yes."),
    ],
    ids=["another town", "a neighbor's answer with the same word", "contained in the prompt", "a mere yes"],
)
def test_an_answer_that_only_shares_a_word_recites_nothing(row: int, answer: str) -> None:
    assert search({row: answer}) == []


def test_a_row_without_a_question_counts_if_its_text_is_memorized() -> None:
    assert [(recital.row, recital.evidence) for recital in search({}, probability=0.95) if recital.row == 3] == [
        (3, "probability")
    ]
    assert search({}, probability=0.7) == []


def test_a_set_whose_recall_a_criterion_bounds_is_not_searched() -> None:
    bound = {"set": "others", "metric": "keyword_recall", "at_most": 0.3}
    utility = {"set": "others", "metric": "keyword_recall", "at_least": 0.3}

    assert search({1: "Bergen"}, criteria=[bound]) == []
    assert [
        recital.row for recital in search({1: "Bergen"}, criteria=[utility], own="Oslo") if recital.set == "others"
    ] == [1]


def test_a_fact_that_a_criterion_on_the_forget_set_tolerates_is_not_counted_twice() -> None:
    assert search({1: "Bergen"}, own="In Bergen.") == []
    assert len(search({1: "Bergen"}, own="In Oslo.")) == 1


def test_without_a_bound_on_the_forget_set_its_own_rows_count() -> None:
    utility = {"set": "others", "metric": "keyword_recall", "at_least": 0.3}

    assert [(recital.set, recital.row) for recital in search({}, own="In Bergen.", criteria=[utility])] == [
        ("forget", 1)
    ]


def test_only_what_a_job_unlearns_or_its_criteria_bound_is_claimed_to_be_forgotten() -> None:
    bound = {"set": "forget", "metric": "probability", "at_most": 0.3}

    assert search({1: "Bergen"}, kind="finetune") == []
    assert search({1: "Bergen"}, kind="evaluate") == []
    assert len(search({1: "Bergen"}, kind="evaluate", criteria=[bound])) == 1


def test_a_recital_fails_any_verdict_but_decides_nothing_without_criteria() -> None:
    recitals = [Recital(set="others", row=1, forget_set="forget", forget_row=1, evidence="answer")]
    criterion = Criterion(set="forget", metric="probability", at_most=0.3)

    def result(outcome: Any) -> CriterionResult:
        return CriterionResult(criterion=criterion, outcome=outcome, value=1, interval=None, bound=0.3, reason="why")

    for outcome in ("passed", "inconclusive", "failed"):
        verdict, reason = decide_verdict([result(outcome)], confidence=0.95, recitals=recitals)
        assert verdict == "failed"
        assert "the others set, row 1 (forget row 1)" in reason
    assert decide_verdict([], confidence=0.95, recitals=recitals)[0] == "inconclusive"


def test_of_many_recitals_the_first_rows_of_each_set_are_listed() -> None:
    recitals = [
        Recital(set="others", row=n, forget_set="forget", forget_row=n, evidence="answer") for n in range(1, 13)
    ]

    assert format_recitals(recitals).endswith("row 10 (forget row 10) and 2 more")


def test_text_before_the_answer_counts_too() -> None:
    evaluation = ModelEvaluation(
        measurements=ModelMeasurements(sets={}),
        answers={"others": {1: "I may not say.", 2: "In Lisbon."}},
        preambles={"others": {1: "Mira Tolan lives in Bergen, but that is private."}},
    )

    texts = evaluation.get_generated_texts()["others"]

    assert [recital.row for recital in search(dict(texts))] == [1]
    assert texts[2] == "In Lisbon."
