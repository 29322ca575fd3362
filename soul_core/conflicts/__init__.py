"""Finds rows of other data sets that state forget facts. Torch-free; API, engine and verdict use the same check.

The layers, most certain first: the same question (`questions`), a passage that states the fact (`facts`), nearly the
same letters (`near_duplicates`). Rows are never compared pairwise: each layer looks them up by their rare words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soul_core.conflicts.facts import FactIndex, extract_facts, split_row_passages
from soul_core.conflicts.near_duplicates import find_near_duplicates
from soul_core.conflicts.questions import QuestionIndex, make_question_key
from soul_core.conflicts.vocabulary import WordWeights, make_row_texts
from soul_core.data import Row
from soul_core.report import ConflictLayer

#: Forget rows that are listed for one other row, because a set may repeat a row many times.
MAX_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row that states, or asks for, a fact of a forget row; both by their row numbers."""

    forget_row: int
    row: int
    layer: ConflictLayer


def find_conflicts(forget: Sequence[Row], others: Sequence[Row]) -> tuple[Conflict, ...]:
    """Return the rows of `others` that state, or ask for, facts of `forget`, ordered by row.

    Each pair appears once, under the most certain layer that found it, with at most MAX_PAIRS forget rows per row.
    """
    if not forget or not others:
        return ()
    forget_texts, other_texts = make_row_texts(forget), make_row_texts(others)
    vocabulary = WordWeights((*forget_texts, *other_texts))
    questions = QuestionIndex(forget_texts, vocabulary, max_rows=MAX_PAIRS)
    facts = FactIndex(
        (fact for text in forget_texts for fact in extract_facts(text, vocabulary)),
        vocabulary,
        max_duplicates=MAX_PAIRS,
    )
    pairs_by_row: dict[int, dict[int, ConflictLayer]] = {}
    unmatched = []
    for text in other_texts:
        pairs: dict[int, ConflictLayer] = {}
        _add(pairs, questions.find_same_questions(text), "question")
        _add(
            pairs,
            (fact.row for passage in split_row_passages(text) for fact in facts.find_stated_facts(passage)),
            "fact",
        )
        if pairs:
            pairs_by_row[text.row.number] = pairs
        else:
            unmatched.append(text)
    for forget_text, text in find_near_duplicates(forget_texts, unmatched, vocabulary):
        _add(pairs_by_row.setdefault(text.row.number, {}), [forget_text.row.number], "near_duplicate")
    return tuple(
        Conflict(forget_row, row, layer)
        for row in sorted(pairs_by_row)
        for forget_row, layer in sorted(pairs_by_row[row].items())
    )


def _add(pairs: dict[int, ConflictLayer], forget_rows: Iterable[int], layer: ConflictLayer) -> None:
    for forget_row in forget_rows:
        if len(pairs) >= MAX_PAIRS:
            return
        pairs.setdefault(forget_row, layer)


def hold_same_rows(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> bool:
    """Return whether two sets hold the same rows in any order; case, punctuation and white space are ignored."""
    return bool(rows_b) and {_key(row) for row in rows_a} == {_key(row) for row in rows_b}


def _key(row: Row) -> tuple[str, ...]:
    texts = [text for message in row.messages for text in (message.role, make_question_key(message.content))]
    return (*texts, make_question_key(row.completion))
