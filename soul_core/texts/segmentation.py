"""Words of any script, and where they stand. Torch-free.

Letters, digits and the combining marks on them make a word; anything else ends it. Runs of a script without spaces
between words are divided by ICU's dictionaries (Thai, Lao, Khmer, Burmese, Chinese, Japanese).
"""

import re
import unicodedata
from collections.abc import Iterator

from icu4py.breakers import WordBreaker

#: Scripts written without spaces between words: Thai and Lao, Burmese, Khmer, kana and Han, the extensions of these.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u19e0-\u19ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f"
    "\U00020000-\U0003fffd]"
)


class _Marked(dict[int, str]):
    """Each character as itself where it can be part of a word, else a space; worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = kept = chr(code) if _belongs(chr(code)) else " "
        return kept


def _belongs(char: str) -> bool:
    # Cf: joiners and soft hyphens stand inside words
    return char.isalnum() or unicodedata.category(char)[0] == "M" or unicodedata.category(char) == "Cf"


_MARKED = _Marked()
_RUN = re.compile(r"\S+")


def is_unspaced(word: str) -> bool:
    """Say whether the word is of a script without spaces between words."""
    return bool(_UNSPACED.search(word))


def find_word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of every word, in characters of the text as it is."""
    for run in _RUN.finditer(text.translate(_MARKED)):
        start, chars = run.start(), run.group()
        if not _UNSPACED.search(chars):
            if any(map(str.isalnum, chars)):
                yield run.span()
            continue
        for piece in WordBreaker(chars, "en"):  # the dictionaries go by script; `segments()` counts in UTF-16
            if any(map(str.isalnum, piece)):
                yield start, start + len(piece)
            start += len(piece)


def split_words(text: str) -> list[str]:
    """Return the words of a text in order, as they are written."""
    return [text[start:end] for start, end in find_word_spans(text)]
