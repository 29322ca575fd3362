"""The second layer: rows that state a forget row's fact, in whatever words stand between its names. Torch-free.

A fact is what a forget answer tells (its keywords) of what its prompt asks about (the prompt's keywords). A passage
states it when it holds most of both, by the weight of the words: names and rare words count, "where" and "live" hardly.
Source: our own; thresholds were set on TOFU and the examples, see docs/reference/conflicts.md.
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

#: Least weighted share of the answer's keywords, and of the subject's, that a passage must hold.
MIN_ANSWER_COVERAGE, MIN_SUBJECT_COVERAGE = 0.6, 0.5
#: Of the answer where the subject is almost whole: "Paris" alone states "located in Paris, France" as well.
MIN_PARTIAL_ANSWER_COVERAGE, MIN_STRICT_SUBJECT_COVERAGE = 0.4, 0.75
#: The same where nothing but the answer is known (plain text), and of an own answer that recites.
MIN_STATEMENT_COVERAGE = MIN_RECITAL_COVERAGE = 0.8
#: The subject as good as whole.
MIN_FULL_COVERAGE = 0.95
#: Fewer words in common than this are chance (France and Paris), unless they are the whole subject and its answer.
_LEAST_SHARED = 3
#: A longer text is searched in passages of this many characters, each overlapping the next by half: in a long one all
#: words of a fact meet by chance.
PASSAGE_CHARS = 1000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।॥])\s*|\n+")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one forget row states, or one sentence of it. Words as `words_of` has them."""

    row: int
    subject: frozenset[str]
    answer: frozenset[str]
    is_statement: bool
    """Of plain text: subject and answer cannot be told apart, all words are in `answer`."""

    @property
    def has_generic_answer(self) -> bool:
        """The answer is one that many questions have (yes, no, a digit)."""
        return is_generic_answer(self.answer)


@dataclass(frozen=True, slots=True)
class Passage:
    """Words that stand together, and those of them that answer (all, in plain text)."""

    words: frozenset[str]
    answer_words: frozenset[str]


def extract_facts(text: RowText, vocabulary: WordWeights) -> Iterator[Fact]:
    """Yield what a forget row states: its answer as one, and each telling sentence of a longer one."""
    row = text.row
    sentences = [part for part in _SENTENCE_END.split(row.completion) if part.strip()]
    if not row.messages:
        for sentence in sentences:
            words = extract_keywords(sentence, "") - get_asking_words()
            if len(sentences) == 1 or sum(map(vocabulary.is_distinctive, words)) >= _LEAST_SHARED:
                yield Fact(row.number, frozenset(), words, is_statement=True)
        return
    subject = extract_keywords(text.dialog_text, "") - get_asking_words()
    for place, told in enumerate([row.completion, *(sentences if len(sentences) > 1 else ())]):
        answer = extract_keywords(told, text.dialog_text) - get_asking_words()
        if answer and (place == 0 or any(map(vocabulary.is_distinctive, answer))):
            yield Fact(row.number, subject, answer, is_statement=False)


def split_row_passages(text: RowText) -> Iterator[Passage]:
    """Yield a row's words, a long row's in overlapping passages; the question's end always with the answer's begin."""
    row = text.row
    whole = join_row_text(row)
    if len(whole) <= PASSAGE_CHARS:
        yield Passage(text.words, text.answer_words - text.dialog_words)
        return
    half = PASSAGE_CHARS // 2
    for start in range(0, len(whole), half):
        words = extract_word_set(whole[start : start + PASSAGE_CHARS])
        yield Passage(words, words)
        if start + PASSAGE_CHARS >= len(whole):
            break
    if row.messages:
        told = extract_word_set(row.completion[:half])
        yield Passage(extract_word_set(text.question[-half:]) | told, told)


class FactIndex:
    """Facts by their most telling words: a passage is compared only with those it may state."""

    def __init__(self, facts: Iterable[Fact], vocabulary: WordWeights, *, max_duplicates: int) -> None:
        """Index facts; of those that many forget rows state in the same words at most `most`."""
        self._vocabulary = vocabulary
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        equal: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
        self._facts = []
        for fact in facts:
            equal[fact.subject, fact.answer] += 1
            if equal[fact.subject, fact.answer] <= max_duplicates:
                self._facts.append(fact)
        for place, fact in enumerate(self._facts):
            for word in self._anchors(fact):
                self._by_word[word].append(place)

    def find_stated_facts(self, passage: Passage) -> Iterator[Fact]:
        """Yield every fact that a passage states."""
        for fact in self.find_candidates(passage.words):
            if states_fact(passage, fact, self._vocabulary):
                yield fact

    def find_candidates(self, words: frozenset[str]) -> Iterator[Fact]:
        """Yield the facts that words may hold enough of."""
        places = {place for word in words if word in self._by_word for place in self._by_word[word]}
        return (self._facts[place] for place in sorted(places))

    def _anchors(self, fact: Fact) -> list[str]:
        """Return words of which at least one is in every passage that states the fact: the heaviest ones that together
        weigh more than may be missing, of the answer or of the subject, whichever fewer rows hold.
        """
        share = MIN_STATEMENT_COVERAGE if fact.is_statement else MIN_PARTIAL_ANSWER_COVERAGE
        choices = [self._heaviest(fact.answer, 1 - share)]
        if fact.subject:
            choices.append(self._heaviest(fact.subject, 1 - MIN_SUBJECT_COVERAGE))
        return min(choices, key=lambda words: sum(map(self._vocabulary.count_rows, words)))

    def _heaviest(self, words: frozenset[str], share: float) -> list[str]:
        left = share * self._vocabulary.sum_weights(words)
        chosen = []
        for word in sorted(words, key=lambda word: (-self._vocabulary.get_weight(word), word)):
            chosen.append(word)
            left -= self._vocabulary.get_weight(word)
            if left < -1e-9:
                break
        return chosen


def states_fact(passage: Passage, fact: Fact, vocabulary: WordWeights) -> bool:
    """Say whether a passage states a fact."""
    if fact.is_statement:
        shared = len(fact.answer & passage.words)
        return shared >= min(_LEAST_SHARED, len(fact.answer)) and (
            vocabulary.compute_coverage(fact.answer, passage.words) >= MIN_STATEMENT_COVERAGE
        )
    if fact.has_generic_answer:
        whole = bool(fact.subject) and vocabulary.compute_coverage(fact.subject, passage.words) >= MIN_FULL_COVERAGE
        return whole and fact.answer <= passage.answer_words
    told = vocabulary.compute_coverage(fact.answer, passage.words)
    if told >= MIN_ANSWER_COVERAGE:
        return is_about(passage.words, fact, vocabulary)
    return (
        has_subject_number(passage.words, fact)
        and told >= MIN_PARTIAL_ANSWER_COVERAGE
        and bool(fact.subject)
        and vocabulary.compute_coverage(fact.subject, passage.words) >= MIN_STRICT_SUBJECT_COVERAGE
        and len((fact.answer | fact.subject) & passage.words) >= _LEAST_SHARED
        and vocabulary.find_heaviest(fact.answer) in passage.words
        and vocabulary.find_heaviest(fact.subject) in passage.words
    )


def is_about(words: frozenset[str], fact: Fact, vocabulary: WordWeights) -> bool:
    """Say whether words that hold a fact's answer name its subject too."""
    if not fact.subject:
        return (
            len(fact.answer & words) >= _LEAST_SHARED
            and vocabulary.compute_coverage(fact.answer, words) >= MIN_STATEMENT_COVERAGE
        )
    if not has_subject_number(words, fact):
        return False
    share = vocabulary.compute_coverage(fact.subject, words)
    shared = len((fact.answer | fact.subject) & words)
    return share >= MIN_FULL_COVERAGE or (share >= MIN_SUBJECT_COVERAGE and shared >= _LEAST_SHARED)


def has_subject_number(words: frozenset[str], fact: Fact) -> bool:
    """Say whether words hold a number of the subject, if it has any: customer 17 is not customer 18."""
    numbers = set(filter(has_digit, fact.subject))
    return not numbers or bool(numbers & words)


def recites_fact(
    answer_words: frozenset[str], prompt_words: frozenset[str], fact: Fact, vocabulary: WordWeights
) -> bool:
    """Say whether an own answer tells a fact's answer, as far as its own prompt does not give that away."""
    secret = fact.answer - prompt_words
    if not secret or is_generic_answer(secret):
        return False
    return vocabulary.compute_coverage(secret, answer_words) >= MIN_RECITAL_COVERAGE
