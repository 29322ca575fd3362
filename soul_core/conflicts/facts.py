"""The second layer: rows that state the fact of a forget row in other words. Torch-free.

A fact has a subject (the keywords of the prompt) and an answer (the keywords of the completion). A passage states it if
it holds most of both, weighted by word: names and rare words have most of the weight, "where" and "live" little.
Source: ours; thresholds were set on TOFU and the examples, see docs/reference/conflicts.md.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from soul_core.conflicts.vocabulary import (
    RowText,
    WordWeights,
    get_asking_words,
    has_digit,
    is_generic_answer,
    join_row_text,
)
from soul_core.texts import extract_keywords, extract_word_set

#: Minimum weighted share of the answer's keywords, and of the subject's, that a passage must hold.
MIN_ANSWER_COVERAGE, MIN_SUBJECT_COVERAGE = 0.6, 0.5
#: Minimum for the answer if the subject is almost complete: "Paris" alone also states "located in Paris, France"; and
#: what counts as almost complete.
MIN_PARTIAL_ANSWER_COVERAGE, MIN_STRICT_SUBJECT_COVERAGE = 0.4, 0.75
#: Minimum if only the answer is known (plain text), and for a model's own answer that recites a fact.
MIN_STATEMENT_COVERAGE = MIN_RECITAL_COVERAGE = 0.8
#: Minimum for a subject that must be complete.
MIN_FULL_COVERAGE = 0.95
#: Fewer shared words are chance (France and Paris), unless they are the complete subject and its answer.
_MIN_SHARED_WORDS = 3
#: A longer text is searched in passages of this many characters that overlap by half, because all words of a fact can
#: occur in a long text by chance.
PASSAGE_CHARS = 1000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।॥])\s*|\n+")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one forget row, or one sentence of it, states. Words as `extract_keywords` returns them."""

    row: int
    subject: frozenset[str]
    answer: frozenset[str]
    is_statement: bool
    """From plain text: subject and answer cannot be distinguished, so all words are in `answer`."""

    @property
    def has_generic_answer(self) -> bool:
        """Whether many questions have this answer (yes, no, a digit)."""
        return is_generic_answer(self.answer)


@dataclass(frozen=True, slots=True)
class Passage:
    """Words that appear together, and those of them that belong to an answer (in plain text all)."""

    words: frozenset[str]
    answer_words: frozenset[str]


def extract_facts(text: RowText, vocabulary: WordWeights) -> Iterator[Fact]:
    """Yield the facts of a forget row: its complete answer, and each distinctive sentence of a longer one."""
    row = text.row
    sentences = [part for part in _SENTENCE_END.split(row.completion) if part.strip()]
    if not row.messages:
        for sentence in sentences:
            words = extract_keywords(sentence, "") - get_asking_words()
            if len(sentences) == 1 or sum(map(vocabulary.is_distinctive, words)) >= _MIN_SHARED_WORDS:
                yield Fact(row.number, frozenset(), words, is_statement=True)
        return
    subject = extract_keywords(text.dialog_text, "") - get_asking_words()
    for index, statement in enumerate([row.completion, *(sentences if len(sentences) > 1 else ())]):
        answer = extract_keywords(statement, text.dialog_text) - get_asking_words()
        if answer and (index == 0 or any(map(vocabulary.is_distinctive, answer))):
            yield Fact(row.number, subject, answer, is_statement=False)


def split_row_passages(text: RowText) -> Iterator[Passage]:
    """Yield the words of a row, in overlapping passages if it is long; one passage joins question and answer."""
    row = text.row
    row_text = join_row_text(row)
    if len(row_text) <= PASSAGE_CHARS:
        yield Passage(text.words, text.answer_words - text.dialog_words)
        return
    half = PASSAGE_CHARS // 2
    for start in range(0, len(row_text), half):
        words = extract_word_set(row_text[start : start + PASSAGE_CHARS])
        yield Passage(words, words)
        if start + PASSAGE_CHARS >= len(row_text):
            break
    if row.messages:
        answer_words = extract_word_set(row.completion[:half])
        yield Passage(extract_word_set(text.question[-half:]) | answer_words, answer_words)


class FactIndex:
    """Facts indexed by their most distinctive words, so that a passage is compared only with facts it may state."""

    def __init__(self, facts: Iterable[Fact], vocabulary: WordWeights, *, max_duplicates: int) -> None:
        """Index facts; keep at most `max_duplicates` of those that forget rows state in the same words."""
        self._vocabulary = vocabulary
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        num_equal: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
        self._facts = []
        for fact in facts:
            num_equal[fact.subject, fact.answer] += 1
            if num_equal[fact.subject, fact.answer] <= max_duplicates:
                self._facts.append(fact)
        for index, fact in enumerate(self._facts):
            for word in self._choose_anchors(fact):
                self._by_word[word].append(index)

    def find_stated_facts(self, passage: Passage) -> Iterator[Fact]:
        """Yield every fact that a passage states."""
        for fact in self.find_candidates(passage.words):
            if states_fact(passage, fact, self._vocabulary):
                yield fact

    def find_candidates(self, words: frozenset[str]) -> Iterator[Fact]:
        """Yield the facts of which the words may hold enough."""
        indices = {index for word in words if word in self._by_word for index in self._by_word[word]}
        return (self._facts[index] for index in sorted(indices))

    def _choose_anchors(self, fact: Fact) -> list[str]:
        """Return words of which every passage that states the fact holds at least one.

        They are the heaviest words of the answer or of the subject (whichever fewer rows hold) that together weigh more
        than a passage may lack.
        """
        share = MIN_STATEMENT_COVERAGE if fact.is_statement else MIN_PARTIAL_ANSWER_COVERAGE
        choices = [self._take_heaviest(fact.answer, 1 - share)]
        if fact.subject:
            choices.append(self._take_heaviest(fact.subject, 1 - MIN_SUBJECT_COVERAGE))
        return min(choices, key=lambda words: sum(map(self._vocabulary.count_rows, words)))

    def _take_heaviest(self, words: frozenset[str], share: float) -> list[str]:
        remaining = share * self._vocabulary.sum_weights(words)
        chosen = []
        for word in sorted(words, key=lambda word: (-self._vocabulary.get_weight(word), word)):
            chosen.append(word)
            remaining -= self._vocabulary.get_weight(word)
            if remaining < -1e-9:
                break
        return chosen


def states_fact(passage: Passage, fact: Fact, vocabulary: WordWeights) -> bool:
    """Return whether a passage states a fact."""
    if fact.is_statement:
        shared = len(fact.answer & passage.words)
        return shared >= min(_MIN_SHARED_WORDS, len(fact.answer)) and (
            vocabulary.compute_coverage(fact.answer, passage.words) >= MIN_STATEMENT_COVERAGE
        )
    if fact.has_generic_answer:
        has_subject = (
            bool(fact.subject) and vocabulary.compute_coverage(fact.subject, passage.words) >= MIN_FULL_COVERAGE
        )
        return has_subject and fact.answer <= passage.answer_words
    answer_coverage = vocabulary.compute_coverage(fact.answer, passage.words)
    if answer_coverage >= MIN_ANSWER_COVERAGE:
        return is_about(passage.words, fact, vocabulary)
    return (
        has_subject_number(passage.words, fact)
        and answer_coverage >= MIN_PARTIAL_ANSWER_COVERAGE
        and bool(fact.subject)
        and vocabulary.compute_coverage(fact.subject, passage.words) >= MIN_STRICT_SUBJECT_COVERAGE
        and len((fact.answer | fact.subject) & passage.words) >= _MIN_SHARED_WORDS
        and vocabulary.find_heaviest(fact.answer) in passage.words
        and vocabulary.find_heaviest(fact.subject) in passage.words
    )


def is_about(words: frozenset[str], fact: Fact, vocabulary: WordWeights) -> bool:
    """Return whether words that hold a fact's answer also name its subject."""
    if not fact.subject:
        return (
            len(fact.answer & words) >= _MIN_SHARED_WORDS
            and vocabulary.compute_coverage(fact.answer, words) >= MIN_STATEMENT_COVERAGE
        )
    if not has_subject_number(words, fact):
        return False
    share = vocabulary.compute_coverage(fact.subject, words)
    shared = len((fact.answer | fact.subject) & words)
    return share >= MIN_FULL_COVERAGE or (share >= MIN_SUBJECT_COVERAGE and shared >= _MIN_SHARED_WORDS)


def has_subject_number(words: frozenset[str], fact: Fact) -> bool:
    """Return whether words hold a number of the subject, if it has any: customer 17 is not customer 18."""
    numbers = set(filter(has_digit, fact.subject))
    return not numbers or bool(numbers & words)


def recites_fact(
    answer_words: frozenset[str], prompt_words: frozenset[str], fact: Fact, vocabulary: WordWeights
) -> bool:
    """Return whether a model's answer states a fact's answer; words of the model's own prompt do not count."""
    secret = fact.answer - prompt_words
    if not secret or is_generic_answer(secret):
        return False
    return vocabulary.compute_coverage(secret, answer_words) >= MIN_RECITAL_COVERAGE
