"""Text as comparisons see it: one normal form, words of any script, and the keywords of an answer. Torch-free.

Overlap checks, keyword recall, the alternates of `altpo` and few-shot examples compare texts by these functions alone.
"""

from functools import cache, lru_cache
from typing import Any

from soul_core.texts.folding import fold, fold_to_line, has_unusual_whitespace, is_nfc, normalize
from soul_core.texts.function_words import ENGLISH_FUNCTION_WORDS, find_function_words
from soul_core.texts.function_words import is_english as _is_english
from soul_core.texts.segmentation import find_word_spans, is_unspaced, split_words

__all__ = [
    "ENGLISH_FUNCTION_WORDS",
    "extract_keywords",
    "extract_word_set",
    "extract_words",
    "find_word_spans",
    "fold",
    "fold_to_line",
    "has_unusual_whitespace",
    "is_english",
    "is_nfc",
    "is_unspaced",
    "normalize",
    "split_words",
]


def extract_words(text: str, *, stem: bool = True) -> list[str]:
    """Return words and numbers of any script in order, folded; English ones stemmed unless `stem` is off."""
    words = split_words(_folded_case(text))
    return list(map(_stem, words)) if stem else words


def extract_word_set(text: str) -> frozenset[str]:
    """Return words and numbers of any script, folded; English ones stemmed."""
    return frozenset(extract_words(text))


def extract_keywords(answer: str, question: str) -> frozenset[str]:
    """Return the stems of the answer's words that are neither in the question nor mere grammar.

    Grammar is what the language's list of function words holds; an answer that has no other word keeps those, unless it
    is English. In scripts without spaces a word is in the question also where it is divided in another way there.
    """
    answer, question = _folded_case(answer), _folded_case(question)
    words, words_asked = split_words(answer), split_words(question)
    given_away = set(map(_stem, words_asked))
    new = [w for w in words if _stem(w) not in given_away and not (is_unspaced(w) and w in question)]
    grammar = find_function_words(words + words_asked)
    told = [word for word in new if word not in grammar]
    if not told:
        told = [word for word in new if word not in ENGLISH_FUNCTION_WORDS]
    return frozenset(map(_stem, told))


def is_english(text: str) -> bool:
    """Say whether a text is in Latin letters and, as far as its function words tell, in no language but English."""
    return _is_english(split_words(_folded_case(text)))


def _folded_case(text: str) -> str:
    return fold(text).casefold().replace("i\u0307", "i")  # what becomes of a Turkish capital I with its dot


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return (
        str(_stemmer().stemWord(word))
        if word.isascii() and len(word) > 3 and word not in ENGLISH_FUNCTION_WORDS
        else word
    )


@cache
def _stemmer() -> Any:
    from snowballstemmer import stemmer

    return stemmer("english")
