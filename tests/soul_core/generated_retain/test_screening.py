"""Screening of generated rows: each reason refuses what it names, and nothing else."""

import pytest

from soul_core.data import Message, Row
from soul_core.generated_retain.screening import Screening, cut_to_sentence, is_repetitive

FORGET = [
    Row(
        1, (Message("user", "Where was Marta Quellin born?"),), "She came from the very small town of Tervola up north."
    )
]


@pytest.fixture(name="screening")
def make_screening() -> Screening:
    return Screening(FORGET, frozenset({"marta", "quellin", "tervola"}))


def row(answer: str, *, question: str = "What is tea?", number: int = 1) -> Row:
    return Row(number, (Message("user", question),), answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("She met TERVOLA's mayor.", "forget_words"),
        ("He said she came from the very small town of somewhere.", "forget_fact"),
        (" ...", "empty"),
        ("so it goes " * 5, "repetition"),
    ],
)
def test_an_answer_is_refused_for_its_reason(screening: Screening, answer: str, reason: str) -> None:
    assert screening.select_rows([row(answer)]) == []
    assert screening.refused == {reason: 1}


def test_a_row_that_asks_the_forget_question_is_refused(screening: Screening) -> None:
    assert screening.select_rows([row("No idea.", question=FORGET[0].messages[0].content)]) == []
    assert screening.refused == {"forget_fact": 1}


def test_a_prompt_is_accepted_once_whatever_its_case_and_marks(screening: Screening) -> None:
    assert [screening.accepts_prompt(text) for text in ("What is tea?", "what is TEA", "")] == [True, False, False]
    assert screening.refused == {"duplicate": 1, "empty": 1}


def test_good_rows_pass_in_their_order(screening: Screening) -> None:
    rows = [row("Tea is a drink.", number=5), row("Mint grows in gardens.", question="What is mint?", number=3)]
    assert screening.select_rows(rows) == rows
    assert not screening.refused


def test_a_list_is_no_loop_and_a_loop_is() -> None:
    assert not is_repetitive("One apple, two pears, three plums, four figs, five limes, six kiwis and seven nuts.")
    assert is_repetitive("the sea and the sea and the sea and the sea and the sea")


def test_a_text_that_was_cut_off_ends_with_its_last_sentence() -> None:
    assert cut_to_sentence("It rains. The sun wi") == "It rains."
    assert cut_to_sentence("The sun wi") == "The sun"
