"""Forget facts in other data sets: a layered check, torch-free. The API, the engine and the verdict use the same.

Layers, the surest first: the same question (`questions`), a passage that states the fact (`facts`), nearly the same
letters (`near_duplicates`). No pair of all rows is ever formed: each layer looks rows up by what is rare in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from soul_core.conflicts.facts import FactIndex, extract_facts, split_row_passages
from soul_core.conflicts.near_duplicates import find_near_duplicates
from soul_core.conflicts.questions import QuestionIndex, make_question_key
from soul_core.conflicts.vocabulary import WordWeights, make_row_texts
from soul_core.data import Row
from soul_core.report import ConflictLayer

#: Forget rows that are named for one other row: a set may repeat itself endlessly.
MAX_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row that says, or asks for, what a forget row states. Numbers are those of the rows."""

    forget_row: int
    row: int
    layer: ConflictLayer


def find_conflicts(forget: Sequence[Row], others: Sequence[Row]) -> tuple[Conflict, ...]:
    """Return the rows of `others` that state, or ask for, facts of `forget`, ordered by row; each pair once, under the
    surest layer that found it; at most MAX_PAIRS forget rows for one row.
    """
    if not forget or not others:
        return ()
    ours, theirs = make_row_texts(forget), make_row_texts(others)
    vocabulary = WordWeights((*ours, *theirs))
    questions = QuestionIndex(ours, vocabulary, max_rows=MAX_PAIRS)
    facts = FactIndex(
        (fact for text in ours for fact in extract_facts(text, vocabulary)), vocabulary, max_duplicates=MAX_PAIRS
    )
    found: dict[int, dict[int, ConflictLayer]] = {}
    left = []
    for text in theirs:
        pairs: dict[int, ConflictLayer] = {}
        _add(pairs, questions.find_same_questions(text), "question")
        _add(
            pairs,
            (fact.row for passage in split_row_passages(text) for fact in facts.find_stated_facts(passage)),
            "fact",
        )
        if pairs:
            found[text.row.number] = pairs
        else:
            left.append(text)
    for ours_text, text in find_near_duplicates(ours, left, vocabulary):
        _add(found.setdefault(text.row.number, {}), [ours_text.row.number], "near_duplicate")
    return tuple(
        Conflict(forget_row, row, layer) for row in sorted(found) for forget_row, layer in sorted(found[row].items())
    )


def _add(pairs: dict[int, ConflictLayer], forget_rows: Iterable[int], layer: ConflictLayer) -> None:
    for forget_row in forget_rows:
        if len(pairs) >= MAX_PAIRS:
            return
        pairs.setdefault(forget_row, layer)


def hold_same_rows(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> bool:
    """Say whether two sets hold the same rows, in whatever order; case, punctuation and white space aside."""
    return bool(rows_b) and {_key(row) for row in rows_a} == {_key(row) for row in rows_b}


def _key(row: Row) -> tuple[str, ...]:
    texts = [text for message in row.messages for text in (message.role, make_question_key(message.content))]
    return (*texts, make_question_key(row.completion))
