"""Few-shot examples: other questions with their answers, shown before a question. Torch-free."""

from collections.abc import Iterable
from itertools import islice

from soul_core.data import Message, Row
from soul_core.texts import extract_keywords, extract_word_set


def select_non_leaking_examples(row: Row, candidates: Iterable[Row], max_examples: int) -> list[Row]:
    """Return the first candidates that contain no keyword of this row's answer: a recalled word was remembered."""
    keywords = extract_keywords(row.completion, " ".join(message.content for message in row.messages))
    return list(
        islice(
            (other for other in candidates if other.messages and not keywords & _extract_all_words(other)),
            max_examples,
        )
    )


def make_turns(examples: Iterable[Row]) -> tuple[Message, ...]:
    """Return rows as answered turns of one conversation."""
    return tuple(turn for example in examples for turn in (*example.messages, Message("assistant", example.completion)))


def _extract_all_words(row: Row) -> frozenset[str]:
    return extract_word_set(" ".join([*(message.content for message in row.messages), row.completion]))
