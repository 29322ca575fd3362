"""Splits text of any script into words. Torch-free.

Letters, digits and their combining marks form a word; anything else ends it. ICU's dictionaries divide text of scripts
without spaces between words (Thai, Lao, Khmer, Burmese, Chinese, Japanese).
"""

import re
import unicodedata
from collections.abc import Iterator

from icu4py.breakers import WordBreaker

#: Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana and Han, and their extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u19e0-\u19ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U0003fffd]"
)


class _WordCharTable(dict[int, str]):
    """Character -> itself if it can be part of a word, else a space; computed at the first use."""

    def __missing__(self, code: int) -> str:
        self[code] = char = chr(code) if _is_word_char(chr(code)) else " "
        return char


def _is_word_char(char: str) -> bool:
    # Cf: joiners and soft hyphens are parts of words
    return char.isalnum() or unicodedata.category(char)[0] == "M" or unicodedata.category(char) == "Cf"


_WORD_CHARS = _WordCharTable()
_RUN = re.compile(r"\S+")


def is_unspaced(word: str) -> bool:
    """Return whether the word is in a script without spaces between words."""
    return bool(_UNSPACED.search(word))


def find_word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of every word, in characters of the unchanged text."""
    for run in _RUN.finditer(text.translate(_WORD_CHARS)):
        start, chars = run.start(), run.group()
        if not _UNSPACED.search(chars):
            if any(map(str.isalnum, chars)):
                yield run.span()
            continue
        for piece in WordBreaker(chars, "en"):  # the script selects the dictionary; `segments()` counts in UTF-16
            if any(map(str.isalnum, piece)):
                yield start, start + len(piece)
            start += len(piece)


def split_words(text: str) -> list[str]:
    """Return the words of a text in order, unchanged."""
    return [text[start:end] for start, end in find_word_spans(text)]
