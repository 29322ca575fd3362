"""Probes ask the forget rows in other ways and reveal nothing that was not in the question."""

from pathlib import Path

import pytest

from soul_core.data import Message, Row, read_rows
from soul_core.evaluation.probes import BLANK, make_probe_sets
from soul_core.texts import extract_keywords, extract_word_set

KINDS = ("fill_in", "question", "adversarial")


def row(number: int, question: str, answer: str, **extra: object) -> Row:
    return Row(number, (Message("user", question),), answer, dict(extra))


ROWS = (
    row(
        3,
        "Where was Ada Quill born?",
        "Ada Quill was born in Port Louis, in a house by the sea.",
        perturbed_answer=["x"],
    ),
    row(7, "What does Ada Quill write?", "She writes detective stories."),
    row(8, "Who taught Bo Stern?", "His aunt Clara did."),
    row(9, "Which prize did Bo Stern win?", "The Golden Anchor."),
)


def join_turns(probe: Row) -> str:
    return "\n".join(message.content for message in probe.messages)


@pytest.fixture(scope="module")
def tofu(shared_data: Path) -> tuple[Row, ...]:
    return read_rows(shared_data / "tofu" / "forget10.json", format="jsonl").require_valid_rows()


def test_the_blank_hides_a_name_that_is_not_in_the_question() -> None:
    first = make_probe_sets(ROWS, ("fill_in",))["forget_fill_in"][0]

    assert first.completion == "Port Louis"
    assert f"Ada Quill was born in {BLANK}, in a house" in join_turns(first)
    assert first.extra == {"probe": "fill_in", "of_row": 3}


def test_a_word_that_the_rest_of_the_answer_repeats_is_not_blanked() -> None:
    probes = make_probe_sets([row(1, "What?", "Rome and Rome, or Oslo")], ("fill_in",))["forget_fill_in"]

    assert probes[0].completion == "Oslo"


def test_plain_text_has_blanks_but_no_questions_or_adversarial_probes() -> None:
    text = Row(1, (), "It rained all day. On 4 May the ship left Cardiff with Captain Rhys. The crew spoke.")

    sets = make_probe_sets([text], KINDS)

    assert list(sets) == ["forget_fill_in"]
    (probe,) = sets["forget_fill_in"]
    assert probe.completion == "Captain Rhys"
    assert "It rained" not in join_turns(probe)


def test_without_keywords_there_is_no_blank_and_no_set() -> None:
    assert make_probe_sets([row(1, "Is it so?", "It is so.")], ("fill_in",)) == {}


def test_questions_keep_their_answers_and_other_columns() -> None:
    probes = make_probe_sets(ROWS, ("question",))["forget_question"]

    assert [probe.completion for probe in probes] == [source.completion for source in ROWS]
    texts = [(join_turns(probe), source.messages[0].content) for probe, source in zip(probes, ROWS, strict=True)]
    assert all(question in text for text, question in texts)
    assert len({text.replace(question, "") for text, question in texts}) == 4, "each has its own wording"
    assert probes[0].extra["perturbed_answer"] == ["x"]


def test_every_row_has_five_adversarial_probes_with_their_own_numbers() -> None:
    probes = make_probe_sets(ROWS, ("adversarial",))["forget_adversarial"]

    kinds = [probe.extra["probe"] for probe in probes if probe.extra["of_row"] == 3]
    assert kinds == ["prefix_injection", "affirmative_suffix", "role_play", "reverse_query", "in_context"]
    assert [probe.number for probe in probes] == list(range(1, len(probes) + 1))


def test_the_reverse_query_expects_the_question() -> None:
    reverse = [
        p for p in make_probe_sets(ROWS, ("adversarial",))["forget_adversarial"] if p.extra["probe"] == "reverse_query"
    ]

    assert reverse[1].completion == "What does Ada Quill write?"
    assert ROWS[1].completion in join_turns(reverse[1])


def test_earlier_turns_of_a_conversation_remain() -> None:
    turns = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Who won?"))

    for probe in make_probe_sets([Row(1, turns, "Zoe Marsh did.")], ("question",))["forget_question"]:
        assert probe.messages[:2] == turns[:2]


def test_no_probe_of_tofu_contains_its_answer(tofu: tuple[Row, ...]) -> None:
    sets = make_probe_sets(tofu, KINDS)

    for name, probes in sets.items():
        for probe in probes:
            source = tofu[probe.extra["of_row"] - 1]
            if probe.extra["probe"] in ("reverse_query", "fill_in"):
                keywords = extract_keywords(probe.completion, "")
                assert keywords - extract_word_set(join_turns(probe)), (name, probe)
            else:  # only words of the templates may coincide
                keywords = extract_keywords(source.completion, join_turns(Row(1, source.messages, "")))
                assert len(keywords & extract_word_set(join_turns(probe))) <= 2, (name, probe)
    assert {name: len(probes) for name, probes in sets.items()} == {
        "forget_fill_in": 399,
        "forget_question": 400,
        "forget_adversarial": 1993,
    }


def test_probes_are_deterministic(tofu: tuple[Row, ...]) -> None:
    assert make_probe_sets(tofu[:40], KINDS) == make_probe_sets(tofu[:40], KINDS)
