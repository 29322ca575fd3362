"""Worked examples: other questions with their answers, shown before a question. Torch-free."""

from collections.abc import Iterable
from itertools import islice

from soul_core.data import Message, Row
from soul_core.texts import keywords_of, words_of


def discreet_examples(row: Row, others: Iterable[Row], most: int) -> list[Row]:
    """Return the first of the other rows that hold no keyword of this row's answer: what comes back was remembered."""
    secret = keywords_of(row.completion, " ".join(message.content for message in row.messages))
    return list(islice((other for other in others if other.messages and not secret & _told(other)), most))


def turns_of(examples: Iterable[Row]) -> tuple[Message, ...]:
    """Return rows as turns of one conversation, answered."""
    return tuple(turn for one in examples for turn in (*one.messages, Message("assistant", one.completion)))


def _told(row: Row) -> frozenset[str]:
    return words_of(" ".join([*(message.content for message in row.messages), row.completion]))
