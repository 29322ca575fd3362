"""The words of two data sets: those of each row, and how well a word distinguishes subjects. Torch-free."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from soul_core.data import Row
from soul_core.texts import extract_word_set

#: Words of questions and requests: they ask for a fact and are not part of it.
_ASKING = (
    "what when where why how name tell me give say state please know about would could should may many much any some "
    "yes there s t re ve ll d m also more most than then into out up down us our my mine just if"
)
#: Answers that many questions share. A fact with such an answer is recognized only with its complete question.
_SHARED_ANSWERS = (
    "yes no true false not none nothing unknown ja nein oui non si sí não sim да нет हाँ नहीं はい いいえ 是 否 有 没有"
)
#: A name or a number is more distinctive than another word of the same rarity.
_NAME_FACTOR = 3.0
#: Weight of a word in every row.
_COMMON_WEIGHT = 0.2
#: A word in at most this many rows, or this share of all rows, is rare.
_FEW_ROWS, _FEW_SHARE = 2, 0.005
_WORD = re.compile(r"\w+")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n\"“„«(\[-])\s*$")


@cache  # at the first comparison, not at import
def get_asking_words() -> frozenset[str]:
    """Return stemmed words of questions and requests: like function words, they carry no fact."""
    return extract_word_set(_ASKING)


@cache
def _shared_answers() -> frozenset[str]:
    return extract_word_set(_SHARED_ANSWERS)


@dataclass(frozen=True, slots=True)
class RowText:
    """The words of one row."""

    row: Row
    question: str
    """The last user turn; "" if the row is plain text."""
    dialog_text: str
    """All turns except system turns."""
    prompt_words: frozenset[str]
    """Of all turns."""
    dialog_words: frozenset[str]
    """Of `dialog_text`."""
    answer_words: frozenset[str]
    """Of the completion."""

    @property
    def words(self) -> frozenset[str]:
        """All words, because a system turn may also state a fact."""
        return self.prompt_words | self.answer_words


def make_row_texts(rows: Sequence[Row]) -> list[RowText]:
    """Split rows into words."""
    return [_make_row_text(row) for row in rows]


def _make_row_text(row: Row) -> RowText:
    turns = [message for message in row.messages if message.role not in {"system", "developer"}]
    dialog_text = "\n".join(turn.content for turn in turns)
    dialog_words, answer_words = extract_word_set(dialog_text), extract_word_set(row.completion)
    system = [message.content for message in row.messages if message.role in {"system", "developer"}]
    users = [turn for turn in turns if turn.role == "user"] or turns
    question = users[-1].content if users else ""
    prompt_words = dialog_words | extract_word_set("\n".join(system))
    return RowText(row, question, dialog_text, prompt_words, dialog_words, answer_words)


def join_row_text(row: Row) -> str:
    """Return the turns of a row except system turns, then the completion."""
    turns = [message.content for message in row.messages if message.role not in {"system", "developer"}]
    return "\n".join([*turns, row.completion])


class WordWeights:
    """Weights of words in the rows of two data sets: rare words and names distinguish subjects."""

    def __init__(self, texts: Iterable[RowText]) -> None:
        self._rows_with: Counter[str] = Counter()
        self._num_rows = 0
        begins_upper: set[str] = set()
        lower: set[str] = set()
        for text in texts:
            self._num_rows += 1
            self._rows_with.update(text.words)
            for passage in (*(message.content for message in text.row.messages), text.row.completion):
                for token, is_name in find_cased_words(passage):
                    (begins_upper if is_name else lower).add(token)
        self._names = frozenset(word for token in begins_upper - lower for word in extract_word_set(token))
        self._weights: dict[str, float] = {}

    def get_weight(self, word: str) -> float:
        """Return log(rows / rows with the word) + 0.2, three times that for a name or a number.

        A name is capitalized inside sentences wherever it occurs. In scripts without capitals only rarity counts.
        """
        if word not in self._weights:
            factor = _NAME_FACTOR if self.is_name(word) else 1.0
            rarity = math.log(max(1, self._num_rows) / max(1, self._rows_with[word]))
            self._weights[word] = factor * (_COMMON_WEIGHT + rarity)
        return self._weights[word]

    def is_name(self, word: str) -> bool:
        return word in self._names or has_digit(word)

    def is_distinctive(self, word: str) -> bool:
        """Return whether a word alone identifies few rows: a name, or a rare word."""
        return self.is_name(word) or self._rows_with[word] <= max(_FEW_ROWS, _FEW_SHARE * self._num_rows)

    def count_rows(self, word: str) -> int:
        """Return the number of rows with the word."""
        return self._rows_with[word]

    def sum_weights(self, words: Iterable[str]) -> float:
        return sum(map(self.get_weight, words))

    def find_heaviest(self, words: frozenset[str]) -> str:
        return max(words, key=lambda word: (self.get_weight(word), word))

    def compute_coverage(self, wanted: frozenset[str], words: frozenset[str]) -> float:
        """Return the share of the weight of `wanted` that `words` holds; 1 if nothing is wanted."""
        total = self.sum_weights(wanted)
        return self.sum_weights(wanted & words) / total if total else 1.0


def has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def is_generic_answer(words: frozenset[str]) -> bool:
    """Return whether many questions have this answer: yes, no, a digit, a letter."""
    return all(word in _shared_answers() or (len(word) == 1 and word.isascii()) for word in words)


def find_cased_words(text: str) -> Iterator[tuple[str, bool]]:
    """Yield words of scripts with capitals, and whether each is capitalized although it does not start a sentence."""
    for match in _WORD.finditer(text):
        token = match.group()
        if token[0].islower():
            yield token.casefold(), False
        elif token[0].isupper() and not _SENTENCE_START.search(text, max(0, match.start() - 4), match.start()):
            yield token.casefold(), True
