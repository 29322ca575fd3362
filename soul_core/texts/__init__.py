"""Text as comparisons see it: one normal form, words of any script, and the keywords of an answer. Torch-free.

Overlap checks, keyword recall, the alternates of `altpo` and few-shot examples compare texts by these functions alone.
"""

from functools import cache, lru_cache
from typing import Any

from soul_core.texts.folding import fold, has_unseen_marks, is_nfc, normalize
from soul_core.texts.function_words import FUNCTION_WORDS, function_words_in
from soul_core.texts.function_words import is_english as _is_english
from soul_core.texts.segmentation import is_unspaced, split_words, word_spans

__all__ = [
    "FUNCTION_WORDS",
    "fold",
    "has_unseen_marks",
    "is_english",
    "is_nfc",
    "is_unspaced",
    "keywords_of",
    "normalize",
    "ordered_words",
    "split_words",
    "word_spans",
    "words_of",
]


def ordered_words(text: str, *, stem: bool = True) -> list[str]:
    """Return words and numbers of any script in order, folded; English ones stemmed unless `stem` is off."""
    words = split_words(_folded_case(text))
    return list(map(_stem, words)) if stem else words


def words_of(text: str) -> frozenset[str]:
    """Return words and numbers of any script, folded; English ones stemmed."""
    return frozenset(ordered_words(text))


def keywords_of(expected: str, asked: str) -> frozenset[str]:
    """Return the stems of the answer's words that are neither in the question nor mere grammar.

    Grammar is what the language's list of function words holds; an answer that has no other word keeps those, unless it
    is English. In scripts without spaces a word is in the question also where it is divided in another way there.
    """
    expected, asked = _folded_case(expected), _folded_case(asked)
    words, words_asked = split_words(expected), split_words(asked)
    given_away = set(map(_stem, words_asked))
    new = [w for w in words if _stem(w) not in given_away and not (is_unspaced(w) and w in asked)]
    grammar = function_words_in(words + words_asked)
    told = [word for word in new if word not in grammar]
    if not told:
        told = [word for word in new if word not in FUNCTION_WORDS]
    return frozenset(map(_stem, told))


def is_english(text: str) -> bool:
    """Say whether a text is in Latin letters and, as far as its function words tell, in no language but English."""
    return _is_english(split_words(_folded_case(text)))


def _folded_case(text: str) -> str:
    return fold(text).casefold().replace("i\u0307", "i")  # what becomes of a Turkish capital I with its dot


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word)) if word.isascii() and len(word) > 3 and word not in FUNCTION_WORDS else word


@cache
def _stemmer() -> Any:
    from snowballstemmer import stemmer

    return stemmer("english")
