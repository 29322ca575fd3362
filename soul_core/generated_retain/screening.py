"""Refuses generated rows: those with words or facts of the forget set, and those that teach nothing. Torch-free."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from soul_core.conflicts import find_conflicts
from soul_core.conflicts.questions import make_question_key
from soul_core.data import Row
from soul_core.report import RefusalReason
from soul_core.texts import extract_word_set, extract_words

#: An answer that has this many words of a forget answer in a row recites it.
_RECITED_WORDS = 8
#: A run of this many words, this many times in one answer, is a loop.
_LOOP_WORDS, _MAX_LOOPS = 3, 3
#: Fewer different words than this share, in an answer of at least so many words, are a loop too.
_MIN_DIFFERENT_SHARE, _MIN_WORDS = 0.3, 12
_SENTENCE_END = re.compile(r"[.!?。！？।]")


class Screening:
    """Decides which generated rows are used, and counts the others by reason."""

    def __init__(self, forget: Sequence[Row], protected_words: frozenset[str]) -> None:
        self._forget, self._protected_words = forget, protected_words
        self._recited = {run for row in forget for run in _list_runs(row.completion, _RECITED_WORDS)}
        self._prompts: set[str] = set()
        self.refused: Counter[RefusalReason] = Counter()

    def accepts_prompt(self, prompt: str) -> bool:
        """Return whether a prompt may be answered: it is neither empty, nor a duplicate, nor about a forget subject."""
        reason = self._find_fault(prompt)
        if reason is None and (key := make_question_key(prompt)) in self._prompts:
            reason = "duplicate"
        elif reason is None:
            self._prompts.add(key)
        return self._count(reason)

    def has_protected_words(self, text: str) -> bool:
        """Return whether a text has a word of a forget subject or answer."""
        return bool(self._protected_words & extract_word_set(text))

    def select_rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that may be learned, in their order. Row numbers must differ."""
        candidates = [row for row in rows if self._count(self._find_fault(row.completion, is_answer=True))]
        in_conflict = {conflict.row for conflict in find_conflicts(self._forget, candidates)}
        return [row for row in candidates if self._count("forget_fact" if row.number in in_conflict else None)]

    def count_unusable(self) -> None:
        """Count a row that the model cannot be trained on, such as one that is too long."""
        self.refused["unusable"] += 1

    def _count(self, reason: RefusalReason | None) -> bool:
        if reason is not None:
            self.refused[reason] += 1
        return reason is None

    def _find_fault(self, text: str, *, is_answer: bool = False) -> RefusalReason | None:
        words = extract_words(text)
        if not words:
            return "empty"
        if self.has_protected_words(text):
            return "forget_words"
        if is_answer and any(run in self._recited for run in _list_runs(text, _RECITED_WORDS)):
            return "forget_fact"
        return "repetition" if is_repetitive(text) else None


def is_repetitive(text: str) -> bool:
    """Return whether a text is a loop of few words."""
    words = extract_words(text, stem=False)
    if len(words) >= _MIN_WORDS and len(set(words)) < _MIN_DIFFERENT_SHARE * len(words):
        return True
    counts = Counter(_list_runs(text, _LOOP_WORDS))
    return bool(counts) and max(counts.values()) > _MAX_LOOPS


def cut_to_sentence(text: str) -> str:
    """Return a text that was cut off, up to its last complete sentence; without any, without its last word."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else text.rpartition(" ")[0].strip() or text.strip()


def _list_runs(text: str, num_words: int) -> Iterator[tuple[str, ...]]:
    words = extract_words(text)
    return zip(*(words[start:] for start in range(num_words)), strict=False)
