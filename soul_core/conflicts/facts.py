"""The second layer: rows that state a forget row's fact, in whatever words stand between its names. Torch-free.

A fact is what a forget answer tells (its keywords) of what its prompt asks about (the prompt's keywords). A passage
states it when it holds most of both, by the weight of the words: names and rare words count, "where" and "live" hardly.
Source: our own; thresholds were set on TOFU and the examples, see docs/evaluation.md.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from soul_core.conflicts.vocabulary import RowText, Vocabulary, asking_words, has_digit, is_shared_answer, spoken
from soul_core.texts import keywords_of, words_of

#: Least weighted share of the answer's keywords, and of the subject's, that a passage must hold.
ANSWER_SHARE, SUBJECT_SHARE = 0.6, 0.5
#: Of the answer where the subject is almost whole: "Paris" alone states "located in Paris, France" as well.
PART_OF_ANSWER, MOST_OF_SUBJECT = 0.4, 0.75
#: The same where nothing but the answer is known (plain text), and of an own answer that recites.
ALONE_SHARE = RECITAL_SHARE = 0.8
#: The subject as good as whole.
WHOLE_SHARE = 0.95
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
    def is_shared(self) -> bool:
        """The answer is one that many questions have (yes, no, a digit)."""
        return is_shared_answer(self.answer)


@dataclass(frozen=True, slots=True)
class Passage:
    """Words that stand together, and those of them that answer (all, in plain text)."""

    words: frozenset[str]
    told: frozenset[str]


def facts_of(text: RowText, vocabulary: Vocabulary) -> Iterator[Fact]:
    """Yield what a forget row states: its answer as one, and each telling sentence of a longer one."""
    row = text.row
    sentences = [part for part in _SENTENCE_END.split(row.completion) if part.strip()]
    if not row.messages:
        for sentence in sentences:
            words = keywords_of(sentence, "") - asking_words()
            if len(sentences) == 1 or sum(map(vocabulary.is_telling, words)) >= _LEAST_SHARED:
                yield Fact(row.number, frozenset(), words, is_statement=True)
        return
    subject = keywords_of(text.asked_text, "") - asking_words()
    for place, told in enumerate([row.completion, *(sentences if len(sentences) > 1 else ())]):
        answer = keywords_of(told, text.asked_text) - asking_words()
        if answer and (place == 0 or any(map(vocabulary.is_telling, answer))):
            yield Fact(row.number, subject, answer, is_statement=False)


def passages_of(text: RowText) -> Iterator[Passage]:
    """Yield a row's words, a long row's in overlapping passages; the question's end always with the answer's begin."""
    row = text.row
    whole = spoken(row)
    if len(whole) <= PASSAGE_CHARS:
        yield Passage(text.words, text.told - text.asked)
        return
    half = PASSAGE_CHARS // 2
    for start in range(0, len(whole), half):
        words = words_of(whole[start : start + PASSAGE_CHARS])
        yield Passage(words, words)
        if start + PASSAGE_CHARS >= len(whole):
            break
    if row.messages:
        told = words_of(row.completion[:half])
        yield Passage(words_of(text.question[-half:]) | told, told)


class FactIndex:
    """Facts by their most telling words: a passage is compared only with those it may state."""

    def __init__(self, facts: Iterable[Fact], vocabulary: Vocabulary, *, most: int) -> None:
        """Index facts; of those that many forget rows state in the same words at most `most`."""
        self._vocabulary = vocabulary
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        equal: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
        self._facts = []
        for fact in facts:
            equal[fact.subject, fact.answer] += 1
            if equal[fact.subject, fact.answer] <= most:
                self._facts.append(fact)
        for place, fact in enumerate(self._facts):
            for word in self._anchors(fact):
                self._by_word[word].append(place)

    def stated_in(self, passage: Passage) -> Iterator[Fact]:
        """Yield every fact that a passage states."""
        for fact in self.near(passage.words):
            if states(passage, fact, self._vocabulary):
                yield fact

    def near(self, words: frozenset[str]) -> Iterator[Fact]:
        """Yield the facts that words may hold enough of."""
        places = {place for word in words if word in self._by_word for place in self._by_word[word]}
        return (self._facts[place] for place in sorted(places))

    def _anchors(self, fact: Fact) -> list[str]:
        """Return words of which at least one is in every passage that states the fact: the heaviest ones that together
        weigh more than may be missing, of the answer or of the subject, whichever fewer rows hold.
        """
        share = ALONE_SHARE if fact.is_statement else PART_OF_ANSWER
        choices = [self._heaviest(fact.answer, 1 - share)]
        if fact.subject:
            choices.append(self._heaviest(fact.subject, 1 - SUBJECT_SHARE))
        return min(choices, key=lambda words: sum(map(self._vocabulary.frequency, words)))

    def _heaviest(self, words: frozenset[str], share: float) -> list[str]:
        left = share * self._vocabulary.total(words)
        chosen = []
        for word in sorted(words, key=lambda word: (-self._vocabulary.weight(word), word)):
            chosen.append(word)
            left -= self._vocabulary.weight(word)
            if left < -1e-9:
                break
        return chosen


def states(passage: Passage, fact: Fact, vocabulary: Vocabulary) -> bool:
    """Say whether a passage states a fact."""
    if fact.is_statement:
        shared = len(fact.answer & passage.words)
        return shared >= min(_LEAST_SHARED, len(fact.answer)) and (
            vocabulary.coverage(fact.answer, passage.words) >= ALONE_SHARE
        )
    if fact.is_shared:
        whole = bool(fact.subject) and vocabulary.coverage(fact.subject, passage.words) >= WHOLE_SHARE
        return whole and fact.answer <= passage.told
    told = vocabulary.coverage(fact.answer, passage.words)
    if told >= ANSWER_SHARE:
        return is_about(passage.words, fact, vocabulary)
    return (
        has_numbers(passage.words, fact)
        and told >= PART_OF_ANSWER
        and bool(fact.subject)
        and vocabulary.coverage(fact.subject, passage.words) >= MOST_OF_SUBJECT
        and len((fact.answer | fact.subject) & passage.words) >= _LEAST_SHARED
        and vocabulary.heaviest(fact.answer) in passage.words
        and vocabulary.heaviest(fact.subject) in passage.words
    )


def is_about(words: frozenset[str], fact: Fact, vocabulary: Vocabulary) -> bool:
    """Say whether words that hold a fact's answer name its subject too."""
    if not fact.subject:
        return len(fact.answer & words) >= _LEAST_SHARED and vocabulary.coverage(fact.answer, words) >= ALONE_SHARE
    if not has_numbers(words, fact):
        return False
    share = vocabulary.coverage(fact.subject, words)
    shared = len((fact.answer | fact.subject) & words)
    return share >= WHOLE_SHARE or (share >= SUBJECT_SHARE and shared >= _LEAST_SHARED)


def has_numbers(words: frozenset[str], fact: Fact) -> bool:
    """Say whether words hold a number of the subject, if it has any: customer 17 is not customer 18."""
    numbers = set(filter(has_digit, fact.subject))
    return not numbers or bool(numbers & words)


def recites(given: frozenset[str], asked: frozenset[str], fact: Fact, vocabulary: Vocabulary) -> bool:
    """Say whether an own answer tells a fact's answer, as far as its own prompt does not give that away."""
    secret = fact.answer - asked
    if not secret or is_shared_answer(secret):
        return False
    return vocabulary.coverage(secret, given) >= RECITAL_SHARE
