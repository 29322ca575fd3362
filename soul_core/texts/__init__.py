"""Compares texts: one normal form, words of any script, and the keywords of an answer. Torch-free.

Conflict checks, keyword recall, the alternative answers of `altpo` and few-shot examples use only these functions.
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
    """Return words and numbers of any script in order, folded; English words are stemmed unless `stem` is false."""
    words = split_words(_fold_case(text))
    return list(map(_stem, words)) if stem else words


def extract_word_set(text: str) -> frozenset[str]:
    """Return the set of words and numbers of any script, folded; English words are stemmed."""
    return frozenset(extract_words(text))


def extract_keywords(answer: str, question: str) -> frozenset[str]:
    """Return the stems of the answer's words that are neither in the question nor function words.

    An answer without any other word keeps the function words of its language, except in English. In scripts without
    spaces a word is also in the question if it is divided differently there.
    """
    answer, question = _fold_case(answer), _fold_case(question)
    answer_words, question_words = split_words(answer), split_words(question)
    question_stems = set(map(_stem, question_words))
    new_words = [
        word
        for word in answer_words
        if _stem(word) not in question_stems and not (is_unspaced(word) and word in question)
    ]
    function_words = find_function_words(answer_words + question_words)
    keywords = [word for word in new_words if word not in function_words]
    if not keywords:
        keywords = [word for word in new_words if word not in ENGLISH_FUNCTION_WORDS]
    return frozenset(map(_stem, keywords))


def is_english(text: str) -> bool:
    """Return whether a text is in Latin letters and, judged by its function words, in English."""
    return _is_english(split_words(_fold_case(text)))


def _fold_case(text: str) -> str:
    return fold(text).casefold().replace("i\u0307", "i")  # the case-folded Turkish capital I with a dot


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
