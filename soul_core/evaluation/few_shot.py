"""Worked examples: other questions with their answers, shown before a question. Torch-free."""

from collections.abc import Iterable
from itertools import islice

from soul_core.data import Message, Row
from soul_core.texts import extract_keywords, extract_word_set


def select_non_leaking_examples(row: Row, candidates: Iterable[Row], max_examples: int) -> list[Row]:
    """Return the first of the other rows that hold no keyword of this row's answer: what comes back was remembered."""
    secret = extract_keywords(row.completion, " ".join(message.content for message in row.messages))
    return list(islice((other for other in candidates if other.messages and not secret & _told(other)), max_examples))


def make_turns(examples: Iterable[Row]) -> tuple[Message, ...]:
    """Return rows as turns of one conversation, answered."""
    return tuple(turn for one in examples for turn in (*one.messages, Message("assistant", one.completion)))


def _told(row: Row) -> frozenset[str]:
    return extract_word_set(" ".join([*(message.content for message in row.messages), row.completion]))
