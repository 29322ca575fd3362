"""What a forget set is about: the subject of each row, and the words that no generated row may have. Torch-free.

A subject is a run of names and numbers, or without any the first word that few rows have. The words before it are the
row's form, which other rows share: "What is the email address of".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soul_core.conflicts.vocabulary import (
    RowText,
    WordWeights,
    find_cased_words,
    get_asking_words,
    has_digit,
    make_row_texts,
)
from soul_core.data import Row
from soul_core.texts import ENGLISH_FUNCTION_WORDS, extract_keywords, extract_word_set, find_word_spans

#: Texts of a forget set are begun with at most this many words: more would let the model recite them.
_MAX_TEXT_STEM_WORDS = 4
#: A number of one digit identifies nothing.
_MIN_DIGITS = 2


@dataclass(frozen=True, slots=True)
class Stem:
    """The beginning of a forget prompt or text, without its subject."""

    text: str
    suffix: str = ""
    """What follows the subject; "" in a text."""
    is_name: bool = False
    """Whether the subject is a name or a number, so that another one can take its place."""


class ForgetSubjects:
    """The subjects of forget sets."""

    def __init__(self, forget: Sequence[Row]) -> None:
        self._texts = make_row_texts(forget)
        self._weights = WordWeights(self._texts)
        self._names = _find_names(forget)

    def list_prompt_stems(self) -> tuple[Stem, ...]:
        """Return the different stems of the last user turns; one that begins with its subject has none."""
        stems = (self._make_prompt_stem(text.question) for text in self._texts if text.row.messages)
        return tuple(dict.fromkeys(stem for stem in stems if stem.text))

    def list_text_stems(self) -> tuple[Stem, ...]:
        """Return the different beginnings of the texts that name no subject."""
        stems = (self._make_text_stem(text.row.completion) for text in self._texts if not text.row.messages)
        return tuple(dict.fromkeys(stem for stem in stems if stem.text))

    def collect_protected_words(self, general: Sequence[Row]) -> frozenset[str]:
        """Return the words that no generated row may have: names and numbers of the forget rows, and other words of
        subjects and answers that belong neither to the rows' form nor to general rows.

        Args:
            general: Rows about anything, whose words are common words.
        """
        general_texts = make_row_texts(general)
        weights = WordWeights((*self._texts, *general_texts))
        common = {word for text in general_texts for word in text.words}
        common |= {word for stem in self.list_prompt_stems() for word in extract_word_set(stem.text)}
        words = {word for text in self._texts for word in self._list_own_words(text)}
        common = {word for word in common if not weights.is_name(word)}
        return frozenset(word for word in words if self._is_name(word) or word not in common)

    def _list_own_words(self, text: RowText) -> Iterator[str]:
        """Yield the names and numbers of a row, and the other words of its subject and answer if it has a prompt."""
        words = frozenset(filter(self._is_name, text.words))
        if text.row.messages:
            words |= extract_keywords(text.row.completion, text.dialog_text)
        if (subject := self._find_subject(text.question)) is not None:
            words |= extract_word_set(text.question[slice(*subject)])
        for word in words - get_asking_words() - ENGLISH_FUNCTION_WORDS:
            num_digits = sum(map(str.isdigit, word))
            if num_digits >= _MIN_DIGITS or (not num_digits and (len(word) > 1 or not word.isascii())):
                yield word

    def _make_prompt_stem(self, question: str) -> Stem:
        subject = self._find_subject(question)
        if subject is None:
            spans = list(find_word_spans(question))
            half = spans[len(spans) // 2][0] if spans else 0
            return Stem(question[:half].rstrip())
        start, end = subject
        return Stem(question[:start].rstrip(), question[end:], self._is_name(question[start:end]))

    def _make_text_stem(self, text: str) -> Stem:
        end = 0
        for start, stop in list(find_word_spans(text))[:_MAX_TEXT_STEM_WORDS]:
            if self._is_name(text[start:stop]):
                break
            end = stop
        return Stem(text[:end])

    def _find_subject(self, question: str) -> tuple[int, int] | None:
        """Return start and end of the first run of names and numbers, or of the first word that few rows have."""
        spans = list(find_word_spans(question))
        content = extract_keywords(question, "") - get_asking_words()
        for is_subject in (self._is_name, lambda word: self._is_rare(word, content)):
            flags = [is_subject(question[start:end]) for start, end in spans]
            if True in flags:
                first = flags.index(True)
                after = [*flags, False].index(False, first)
                return spans[first][0], spans[after - 1][1]
        return None

    def _is_name(self, text: str) -> bool:
        words = extract_word_set(text) - ENGLISH_FUNCTION_WORDS
        return any(word in self._names or has_digit(word) for word in words)

    def _is_rare(self, text: str, content: frozenset[str]) -> bool:
        words = extract_word_set(text)
        return bool(words & content) and any(map(self._weights.is_distinctive, words))


def _find_names(rows: Sequence[Row]) -> frozenset[str]:
    """Return the words that are capitalized inside sentences, and in lower case in no prompt, or nowhere.

    `WordWeights` asks for capitals everywhere; but an e-mail address has its owner's name in lower case.
    """
    prompts = [message.content for row in rows for message in row.messages]
    names = _find_capitalized_words(prompts) | _find_capitalized_words([*prompts, *(row.completion for row in rows)])
    return frozenset(stem for word in names for stem in extract_word_set(word)) - get_asking_words()


def _find_capitalized_words(texts: Sequence[str]) -> set[str]:
    cased = {pair for text in texts for pair in find_cased_words(text)}
    return {word for word, is_capitalized in cased if is_capitalized and (word, False) not in cased}
