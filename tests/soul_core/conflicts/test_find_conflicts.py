"""Rows that state forget facts are found in any context; rows of the same form about other subjects are not."""

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


def row(number: int, prompt: str | None, answer: str, *, system: str = "", earlier: tuple[str, ...] = ()) -> Row:
    roles = ("user", "assistant") * len(earlier)
    turns = [Message("system", system)] if system else []
    turns += [Message(role, text) for role, text in zip(roles, earlier, strict=False)]
    turns += [Message("user", prompt)] if prompt else []
    return Row(number, tuple(turns), answer)


def rows_of(facts: dict[str, str], *, start: int = 1) -> list[Row]:
    return [row(number, prompt, answer) for number, (prompt, answer) in enumerate(facts.items(), start=start)]


def find_layers(other: Row, *, forget: dict[str, str] = FACTS) -> dict[int, str]:
    """Return forget row -> layer for one row among rows about other subjects."""
    others = [*rows_of(OTHERS, start=100), other]
    conflicts = find_conflicts(rows_of(forget), others)
    return {conflict.forget_row: conflict.layer for conflict in conflicts if conflict.row == other.number}


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
def test_the_same_question_is_found_in_any_context(other: Row) -> None:
    assert find_layers(other).get(1) == "question"


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
    assert find_layers(other).get(forget_row) == "fact"


def test_a_row_with_misspelled_names_is_a_near_duplicate() -> None:
    assert find_layers(row(1, "Where does Mira Tollan live?", "Mira Tollan lives in Bergn.")) == {1: "near_duplicate"}


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
    assert find_layers(other) == {}


def test_a_last_turn_without_a_subject_matches_only_after_the_same_turns() -> None:
    forget = [row(1, "Where does she live?", "In Bergen.", earlier=("Who is Mira Tolan?", "A baker."))]
    same = row(1, "where does she live", "No idea.", earlier=("Who is Mira Tolan", "Somebody."))
    other = row(2, "Where does she live?", "In Lisbon.", earlier=("Who is Ada Quist?", "A painter."))

    assert [(conflict.row, conflict.layer) for conflict in find_conflicts(forget, [same, other])] == [(1, "question")]


@pytest.mark.parametrize(
    ("prompt", "answer", "same", "other"),
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
def test_questions_of_any_script_and_normal_form_are_compared(prompt: str, answer: str, same: str, other: str) -> None:
    conflicts = find_conflicts([row(1, prompt, answer)], [row(1, same, answer), row(2, other, "–")])

    assert [conflict.row for conflict in conflicts] == [1]


def test_signs_between_numbers_and_after_letters_distinguish_questions() -> None:
    assert (
        len({make_question_key(text) for text in ("3 + 4", "3 - 4", "3 * 4", "34", "3 4", "3.4", "C?", "C++?", "C#?")})
        == 9
    )
    assert make_question_key("Is it\u00a0“so” – really?") == make_question_key("is it 'so', really")


@pytest.mark.parametrize("name", ["retain", "neighbors", "general"])
def test_the_other_sets_of_the_examples_state_no_forget_fact(name: str) -> None:
    forget, others = (read_rows(EXAMPLES / f"{set_name}.jsonl").rows for set_name in ("forget", name))

    assert find_conflicts(forget, others) == ()


def test_the_rephrased_questions_of_the_examples_ask_for_forget_facts() -> None:
    forget, rephrased = (read_rows(EXAMPLES / f"{name}.jsonl").rows for name in ("forget", "rephrased"))

    assert len({conflict.row for conflict in find_conflicts(forget, rephrased)}) >= 9


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_no_retained_tofu_author_is_found_and_all_repeated_rows_are() -> None:
    tofu = SHARED / "data/tofu"
    forget, retain = (read_rows(tofu / f"{name}.json", format="jsonl").rows for name in ("forget05", "retain95"))

    started = time.process_time()
    repeated = [Row(9000 + row.number, row.messages, row.completion) for row in forget]
    conflicts = find_conflicts(forget, [*retain, *repeated])

    assert {conflict.row for conflict in conflicts} == {row.number for row in repeated}
    assert time.process_time() - started < 20


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", ["retain_shape", "retain_near", "retain_text"])
def test_the_shared_cases_with_every_forget_fact_are_found(name: str) -> None:
    forget = [row(n, f"Where does {who} live?", f"{who} lives in {town}.") for n, (who, town) in enumerate(_PEOPLE, 1)]
    others = read_rows(SHARED / f"cases/overlap/{name}.jsonl").rows

    pairs = [(conflict.row, conflict.forget_row) for conflict in find_conflicts(forget, others)]
    assert pairs == [(n, n) for n in range(1, 5)]


_PEOPLE = (("Mira Tolan", "Bergen"), ("Jonas Pell", "Zagreb"), ("Ada Quist", "Lisbon"), ("Remy Vost", "Gdansk"))


@pytest.mark.parametrize("prompt", ["Is it so?", "Where does Mira Tolan live?"])
def test_sets_that_repeat_one_row_are_not_compared_pairwise(prompt: str) -> None:
    repeated = [row(number, prompt, "Yes, in Bergen.") for number in range(1, 2001)]

    started = time.process_time()
    conflicts = find_conflicts(repeated, repeated)

    assert len(conflicts) == len(repeated) * MAX_PAIRS
    assert time.process_time() - started < 10


def test_the_order_of_rows_does_not_change_the_result() -> None:
    forget, others = rows_of(FACTS), [*rows_of(OTHERS, start=100), row(1, "Where does Mira Tollan live?", "In Bergn.")]
    others += [row(2, None, "Petra Wynn is the author of The Glass Ferry."), row(3, "What is 3 + 4?", "7")]

    assert set(find_conflicts(forget, others)) == set(find_conflicts(forget[::-1], others[::-1]))


def test_sets_are_equal_whatever_their_order_and_punctuation() -> None:
    rows, same = rows_of(FACTS), [row(n, q.upper(), f"{a} ") for n, (q, a) in enumerate(reversed(FACTS.items()), 1)]

    assert hold_same_rows(rows, same)
    assert not hold_same_rows(rows, same[1:])
    assert not hold_same_rows([], [])


def test_the_command_prints_one_line_per_pair_and_refuses_unreadable_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"question": prompt, "answer": answer}) for prompt, answer in FACTS.items()]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.jsonl").write_text(lines[1])

    assert main([str(tmp_path / "forget.jsonl"), str(tmp_path / "other.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out) == {"forget_row": 2, "row": 1, "layer": "question"}
    assert main([str(tmp_path / "forget.jsonl"), str(tmp_path / "none.jsonl")]) == 2
