"""Rows that state forget facts are found whatever stands around them; rows of one form about others are not."""

import json
import time
import unicodedata
from pathlib import Path

import pytest

from soul_core.conflicts import MAX_PAIRS, find_conflicts, hold_same_rows
from soul_core.conflicts.__main__ import main
from soul_core.conflicts.questions import make_question_key
from soul_core.data import Message, Row, read_rows
from tests.paths import ROOT, SHARED

EXAMPLES = ROOT / "examples"
FACTS = {
    "Where does Mira Tolan live?": "Mira Tolan lives in Bergen.",
    "Where does Jonas Pell live?": "Jonas Pell lives in Zagreb.",
    "Who wrote the Glass Ferry?": "It was written by Petra Wynn.",
    "Which metal is in the Vell coin?": "The coin holds silver.",
    "What is the capital of France?": "Paris",
    "Is Mira Tolan married?": "Yes.",
    "How old is Mira Tolan?": "34",
    "What is 3 + 4?": "3 + 4 = 7",
    "Where does customer 17 live?": "In Oak Street.",
}
OTHERS = {
    "Where does Ada Quist live?": "Ada Quist lives in Lisbon.",
    "Where does Remy Vost live?": "Remy Vost lives in Gdansk.",
    "Who wrote the Tin Heron?": "It was written by Oskar Lund.",
    "Which metal is in the Dorn coin?": "The coin holds copper.",
    "What is the capital of Spain?": "Madrid",
}


def row(number: int, asked: str | None, told: str, *, system: str = "", earlier: tuple[str, ...] = ()) -> Row:
    roles = ("user", "assistant") * len(earlier)
    turns = [Message("system", system)] if system else []
    turns += [Message(role, text) for role, text in zip(roles, earlier, strict=False)]
    turns += [Message("user", asked)] if asked else []
    return Row(number, tuple(turns), told)


def rows_of(facts: dict[str, str], *, start: int = 1) -> list[Row]:
    return [row(number, asked, told) for number, (asked, told) in enumerate(facts.items(), start=start)]


def found_in(other: Row, *, forget: dict[str, str] = FACTS) -> dict[int, str]:
    """Return forget row -> layer for one row among others about other subjects."""
    others = [*rows_of(OTHERS, start=100), other]
    return {one.forget_row: one.layer for one in find_conflicts(rows_of(forget), others) if one.row == other.number}


@pytest.mark.parametrize(
    "other",
    [
        row(1, "Where does Mira Tolan live?", "Mira Tolan lives in Bergen.", system="You are a helpful assistant."),
        row(1, "Where does Mira Tolan live?", "I do not know.", earlier=("Hello.", "Hi, how can I help?")),
        row(1, "  where does MIRA TOLAN live ?!", "bergen"),
        row(1, "Where does Mira\u00a0Tolan live\u200b…", "“Bergen”"),
        row(1, "Where does \uff2d\uff49\uff52\uff41 Tolan live?", "Bergen"),
    ],
    ids=["system turn", "earlier turns, other answer", "case and punctuation", "typography", "full width"],
)
def test_the_same_question_is_found_whatever_stands_around_it(other: Row) -> None:
    assert found_in(other).get(1) == "question"


@pytest.mark.parametrize(
    ("other", "forget_row"),
    [
        (row(1, "In which town is Mira Tolan at home?", "She lives in Bergen."), 1),
        (row(1, "Is Bergen the home of Mira Tolan?", "Yes, it is."), 1),
        (row(1, "Who lives in Bergen?", "Mira Tolan"), 1),
        (row(1, None, "Bergen is the home town of Mira Tolan."), 1),
        (row(1, None, "Q: Where does Mira Tolan live? A: Mira Tolan lives in Bergen."), 1),
        (row(1, "Where does she live?", "In Bergen.", earlier=("Who is Mira Tolan?", "A baker.")), 1),
        (row(1, "And what is Zagreb?", "A city.", earlier=("Where does Jonas Pell live?", "In Zagreb.")), 2),
        (row(1, "Please answer.", "Of course.", system="Keep in mind that Mira Tolan lives in Bergen."), 1),
        (row(1, None, "Petra Wynn is the author of The Glass Ferry."), 3),
        (row(1, None, "The Vell coin is made of silver."), 4),
        (row(1, "Which city is the capital of France?", "Paris"), 5),
        (row(1, "What is the age of Mira Tolan?", "Mira Tolan is 34 years old."), 7),
        (row(1, None, f"Mira Tolan moved to Bergen long ago. {'The weather is mild there. ' * 90}"), 1),
    ],
)
def test_a_fact_is_found_in_other_words_in_any_turn_and_in_plain_text(other: Row, forget_row: int) -> None:
    assert found_in(other).get(forget_row) == "fact"


def test_a_row_with_misspelled_names_is_a_near_duplicate() -> None:
    assert found_in(row(1, "Where does Mira Tollan live?", "Mira Tollan lives in Bergn.")) == {1: "near_duplicate"}


@pytest.mark.parametrize(
    "other",
    [
        row(1, "Where does Hanne Brix live?", "Hanne Brix lives in Bergen."),
        row(1, "Where does Mira Tolan work?", "Mira Tolan works in a bakery."),
        row(1, "Where does Miro Toran live?", "Miro Toran lives in Berlin."),
        row(1, "Which metal is in the Ruhn coin?", "The coin holds silver."),
        row(1, "Who wrote the Brass Orchard?", "It was written by Hanne Brix."),
        row(1, "Is Jonas Pell married?", "Yes."),
        row(1, "Does Mira Tolan like fish?", "Yes."),
        row(1, "How old is Jonas Pell?", "34"),
        row(1, "What is 3 - 4?", "-1"),
        row(1, "What is 7 - 4?", "7 - 4 = 3"),
        row(1, "What is 34?", "A number."),
        row(1, "Where does customer 18 live?", "In Oak Street."),
        row(1, "In which city is the Louvre?", "The Louvre is in Paris, France."),
        row(1, "What is the largest city of France?", "Paris"),
        row(1, None, "Bergen is a city in Norway."),
    ],
    ids=lambda other: other.completion if not other.messages else f"{other.messages[-1].content} {other.completion}",
)
def test_rows_about_other_subjects_or_other_facts_are_not_found(other: Row) -> None:
    assert found_in(other) == {}


def test_a_last_turn_that_names_no_subject_is_the_same_question_only_after_the_same_turns() -> None:
    forget = [row(1, "Where does she live?", "In Bergen.", earlier=("Who is Mira Tolan?", "A baker."))]
    same = row(1, "where does she live", "No idea.", earlier=("Who is Mira Tolan", "Somebody."))
    other = row(2, "Where does she live?", "In Lisbon.", earlier=("Who is Ada Quist?", "A painter."))

    assert [(one.row, one.layer) for one in find_conflicts(forget, [same, other])] == [(1, "question")]


@pytest.mark.parametrize(
    ("asked", "told", "again", "other"),
    [
        ("मीरा तोलन कहाँ रहती है?", "मीरा तोलन बर्गन में रहती है।", "मीरा तोलन कहाँ रहती है", "अदा क्विस्ट कहाँ रहती है?"),
        ("王小明住在哪里？", "王小明住在重庆。", "王小明住在哪里?", "李大伟住在哪里？"),
        ("Где живёт Мира Толан?", "Мира Толан живёт в Бергене.", "где живёт мира толан", "Где живёт Ада Квист?"),
        (
            "Wo wohnt Chloé Brûlé?",
            "In Besançon.",
            unicodedata.normalize("NFD", "Wo wohnt Chloé Brûlé?"),
            "Wo wohnt Zoë?",
        ),
    ],
)
def test_questions_of_any_script_and_normal_form_are_compared(asked: str, told: str, again: str, other: str) -> None:
    found = find_conflicts([row(1, asked, told)], [row(1, again, told), row(2, other, "–")])

    assert [one.row for one in found] == [1]


def test_signs_between_numbers_and_behind_letters_tell_questions_apart() -> None:
    assert (
        len({make_question_key(text) for text in ("3 + 4", "3 - 4", "3 * 4", "34", "3 4", "3.4", "C?", "C++?", "C#?")})
        == 9
    )
    assert make_question_key("Is it\u00a0“so” – really?") == make_question_key("is it 'so', really")


@pytest.mark.parametrize("name", ["retain", "neighbors", "general"])
def test_the_examples_sets_that_are_kept_state_nothing_of_what_is_forgotten(name: str) -> None:
    forget, kept = (read_rows(EXAMPLES / f"{each}.jsonl").rows for each in ("forget", name))

    assert find_conflicts(forget, kept) == ()


def test_the_examples_rephrased_questions_are_found_to_ask_for_what_is_forgotten() -> None:
    forget, rephrased = (read_rows(EXAMPLES / f"{each}.jsonl").rows for each in ("forget", "rephrased"))

    assert len({one.row for one in find_conflicts(forget, rephrased)}) >= 9


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_of_tofu_authors_to_keep_none_is_taken_for_one_to_forget_and_repeated_rows_are_all_found() -> None:
    tofu = SHARED / "data/tofu"
    forget, kept = (read_rows(tofu / f"{name}.json", format="jsonl").rows for name in ("forget05", "retain95"))

    started = time.process_time()
    found = find_conflicts(forget, [*kept, *(Row(9000 + one.number, one.messages, one.completion) for one in forget)])

    assert {one.row for one in found} == {9000 + one.number for one in forget}
    assert time.process_time() - started < 20


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", ["retain_shape", "retain_near", "retain_text"])
def test_the_shared_cases_that_hold_every_forget_fact_are_found(name: str) -> None:
    forget = [row(n, f"Where does {who} live?", f"{who} lives in {town}.") for n, (who, town) in enumerate(_PEOPLE, 1)]
    others = read_rows(SHARED / f"cases/overlap/{name}.jsonl").rows

    assert [(one.row, one.forget_row) for one in find_conflicts(forget, others)] == [(n, n) for n in range(1, 5)]


_PEOPLE = (("Mira Tolan", "Bergen"), ("Jonas Pell", "Zagreb"), ("Ada Quist", "Lisbon"), ("Remy Vost", "Gdansk"))


@pytest.mark.parametrize("asked", ["Is it so?", "Where does Mira Tolan live?"])
def test_sets_that_repeat_themselves_endlessly_cost_no_pair_of_all_rows(asked: str) -> None:
    repeated = [row(number, asked, "Yes, in Bergen.") for number in range(1, 2001)]

    started = time.process_time()
    found = find_conflicts(repeated, repeated)

    assert len(found) == len(repeated) * MAX_PAIRS
    assert time.process_time() - started < 10


def test_the_result_is_the_same_in_another_order_of_rows() -> None:
    forget, others = rows_of(FACTS), [*rows_of(OTHERS, start=100), row(1, "Where does Mira Tollan live?", "In Bergn.")]
    others += [row(2, None, "Petra Wynn is the author of The Glass Ferry."), row(3, "What is 3 + 4?", "7")]

    assert set(find_conflicts(forget, others)) == set(find_conflicts(forget[::-1], others[::-1]))


def test_equal_sets_are_told_whatever_their_order_and_punctuation() -> None:
    rows, again = rows_of(FACTS), [row(n, q.upper(), f"{a} ") for n, (q, a) in enumerate(reversed(FACTS.items()), 1)]

    assert hold_same_rows(rows, again)
    assert not hold_same_rows(rows, again[1:])
    assert not hold_same_rows([], [])


def test_the_command_prints_one_line_for_each_pair_and_refuses_what_nobody_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"question": asked, "answer": told}) for asked, told in FACTS.items()]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.jsonl").write_text(lines[1])

    assert main([str(tmp_path / "forget.jsonl"), str(tmp_path / "other.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out) == {"forget_row": 2, "row": 1, "layer": "question"}
    assert main([str(tmp_path / "forget.jsonl"), str(tmp_path / "none.jsonl")]) == 2
