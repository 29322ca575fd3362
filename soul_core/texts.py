"""Text as comparisons see it: one normal form, words of any script, and the keywords of an answer. Torch-free.

Overlap checks, keyword recall, the alternates of `altpo` and few-shot examples compare texts by these functions alone.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import Any

#: English words that carry grammar, not facts.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his i in is it its of on or "
        "she so that the their them there they this to was we were which who whom whose will with you your",
    )
)


def fold(text: str) -> str:
    """Return the text in the form in which texts are compared: NFC."""
    return unicodedata.normalize("NFC", text)


def words_of(text: str) -> frozenset[str]:
    """Return words and numbers of any script, Latin ones stemmed. Without spaces between words each sign is one."""
    words = re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", fold(text).casefold())
    return frozenset(map(_stem, words))


def keywords_of(expected: str, asked: str) -> frozenset[str]:
    """Return the stems of the answer's words that are neither in the question nor mere grammar."""
    return words_of(expected) - words_of(asked) - FUNCTION_WORDS


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word)) if word.isascii() and len(word) > 3 and word not in FUNCTION_WORDS else word


@cache
def _stemmer() -> Any:
    """Import nltk where it is first needed: it takes a second, and a fault in a spec is told without it."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
