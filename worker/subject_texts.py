"""Keeps the uploaded texts out of logs: withholds what a library printed if it may quote them.

A library's message may quote a row, for example the text that a tokenizer cannot encode. A message is kept only if
every word it shares with the uploaded texts is listed in `technical_words.txt`. When in doubt, it is withheld.
"""

import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

#: Larger uploads are not compared: every message of a library is withheld then.
MAX_COMPARED_BYTES = 64 << 20
_MAX_MESSAGE_CHARS = 8_000

_WORD = re.compile("[0-9a-z]+")
#: Shorter words, and numbers such as those of lines and versions, identify no person.
_MIN_WORD_CHARS, _MIN_DIGITS = 3, 4
#: Words count as shared if they begin alike: a library may cut a word or extend it.
_COMPARED_CHARS = 6
#: How Python, JSON and C write a character that is not ASCII.
_ESCAPED_CHARACTER = re.compile(r"\\(?:[uUxN]|[0-7]{3})")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
_ACCENT = re.compile("[\u0300-\u036f]")
#: Marks in messages that are otherwise ASCII. Any other character may be a letter of an uploaded text.
_TYPOGRAPHY = str.maketrans(dict.fromkeys("‘’“”–—…•·│─└├→×°", " "))
#: Eight numbers or more in a row may be the token ids of a text.
_NUMBER_LIST = re.compile(r"(?:\d+[\s,;\[\]()]+){7}\d")


class SubjectTexts:
    """The texts uploaded for a job, read when a library writes its first message."""

    def __init__(self) -> None:
        self._paths: Sequence[Path] = ()
        self._beginnings: frozenset[str] | None = None
        self._lock = threading.Lock()

    def set_files(self, paths: Sequence[Path]) -> None:
        """Name the files of the texts, before an engine reads them."""
        with self._lock:
            self._paths, self._beginnings = paths, None

    def withhold_quotes(self, message: str) -> str:
        """Return the message, or a note of its length if it may quote an uploaded text."""
        if self._may_quote(message):
            return f"(withheld: {len(message)} characters that may quote the uploaded texts)"
        return message

    def _may_quote(self, message: str) -> bool:
        plain = message.translate(_TYPOGRAPHY)
        if len(plain) > _MAX_MESSAGE_CHARS or not plain.isascii():
            return True
        if _NUMBER_LIST.search(plain) or _ESCAPED_CHARACTER.search(plain):
            return True
        # a backslash may begin an escape (\n) or separate two words
        words = {*_find_words(_ESCAPE.sub(" ", plain)), *_find_words(plain)}
        unusual = {word[:_COMPARED_CHARS] for word in words if not _is_technical(word)}
        if not unusual:
            return False
        try:
            with self._lock:
                if sum(path.stat().st_size for path in self._paths) > MAX_COMPARED_BYTES:
                    return True
                if self._beginnings is None:
                    self._beginnings = frozenset(_index(self._paths))
                return not self._beginnings.isdisjoint(unusual)
        except OSError:
            return True


def _index(paths: Sequence[Path]) -> Iterator[str]:
    """Yield how the words of JSON files begin."""
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield from (word[:_COMPARED_CHARS] for word in _find_words(_ESCAPE.sub(_unescape, line)))


def _unescape(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else " "


def _find_words(text: str) -> Iterator[str]:
    """Yield the words that can identify a person, in ASCII: accents are dropped, letters of other scripts separate."""
    folded = text if text.isascii() else _ACCENT.sub("", unicodedata.normalize("NFKD", text))
    for word in _WORD.findall(folded.lower()):
        if len(word) >= (_MIN_DIGITS if word.isdigit() else _MIN_WORD_CHARS):
            yield word


def _is_technical(word: str) -> bool:
    known = _read_technical_words()
    return word in known or word.removesuffix("s") in known


@cache
def _read_technical_words() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("technical_words.txt").read_text(encoding="ascii").split())
