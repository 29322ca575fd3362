"""Folds texts for comparison, and normalizes the texts of rows on request. Torch-free.

Two texts that look the same, or differ only in typography, have the same folded form. Training data is never folded;
`normalize` rewrites rows on request.
"""

import re
import unicodedata

#: Tags of compatibility characters that differ from their replacement only in appearance. Others mean something else
#: than their parts: 10² is not 102, ½ is not 1/2, ① is not 1 in a sum. NFKC would make them equal.
_APPEARANCE_TAGS = frozenset(
    f"<{tag}>" for tag in ("wide", "narrow", "noBreak", "initial", "medial", "final", "isolated", "vertical", "font")
) | {"<compat>"}
#: Thai and Lao letters that NFKC decomposes into spellings that no dictionary has.
_INDIVISIBLE_LETTERS = frozenset("\u0e33\u0eb3\u0edc\u0edd")
_QUOTES = {  # and characters that are typed instead
    "'": "\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u02b9\u02bb\u02bc\u02c8\u00b4\u055a",
    '"': "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u301d\u301e\u301f",
    "-": "\u2212\u2043",  # in addition to the dashes of category Pd
}
#: Invisible characters: grapheme joiner, Mongolian and other variation selectors, Hangul fillers. Category Cf (soft
#: hyphen, zero-width characters and joiners, directions) is also removed: a joiner does not change the word.
_INVISIBLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x180B, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
#: Marks that writers may omit: Hebrew points and accents, Arabic vowel signs and elongation.
_OPTIONAL_MARKS = (
    (0x0591, 0x05BD),
    (0x05BF, 0x05BF),
    (0x05C1, 0x05C2),
    (0x05C4, 0x05C5),
    (0x05C7, 0x05C7),
    (0x0610, 0x061A),
    (0x0640, 0x0640),
    (0x064B, 0x0652),
    (0x0670, 0x0670),
    (0x06D6, 0x06DC),
    (0x06DF, 0x06E8),
    (0x06EA, 0x06ED),
)
_VARIANTS = {variant: plain for plain, variants in _QUOTES.items() for variant in variants} | {
    "\u0643": "\u06a9",  # kaf and yeh of Arabic and of Persian keyboards
    "\u064a": "\u06cc",
    # letters that older texts write with a virama and a joiner (joiners are removed)
    "\u0d7a": "\u0d23\u0d4d",
    "\u0d7b": "\u0d28\u0d4d",
    "\u0d7c": "\u0d30\u0d4d",
    "\u0d7d": "\u0d32\u0d4d",
    "\u0d7e": "\u0d33\u0d4d",
    "\u0d7f": "\u0d15\u0d4d",
    "\u09ce": "\u09a4\u09cd",
}
#: Letters written as two characters that also exist as one.
_COMPOSED = (("\u0e4d\u0e32", "\u0e33"), ("\u0ecd\u0eb2", "\u0eb3"))

_OTHER_SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
#: Invisible and without meaning in the spelling of any script. ZWNJ and ZWJ have one, so they stay.
_ZERO_WIDTH = re.compile(r"[\u00ad\u200b\u2060\ufeff]")


class _FoldTable(dict[int, str | None]):
    """Character -> its folded form, computed at the first use."""

    def __missing__(self, code: int) -> str | None:
        self[code] = folded = _fold_char(chr(code))
        return folded


def _fold_char(char: str) -> str | None:
    category = unicodedata.category(char)
    if category == "Cf" or _is_in(char, _INVISIBLE) or _is_in(char, _OPTIONAL_MARKS):
        return None
    if (plain := _VARIANTS.get(char) or {"Pd": "-", "Zs": " "}.get(category)) is not None:
        return plain
    if (digit := unicodedata.decimal(char, None)) is not None:
        return str(digit)
    tag = unicodedata.decomposition(char).partition(" ")[0]
    if tag in _APPEARANCE_TAGS and char not in _INDIVISIBLE_LETTERS:
        plain = unicodedata.normalize("NFKC", char)
        return "".join(_VARIANTS.get(part, part) for part in plain if not _is_in(part, _OPTIONAL_MARKS))
    return char


def _is_in(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)


_FOLDS = _FoldTable()


def fold(text: str) -> str:
    """Return the form in which texts are compared: NFC, with equal typographic variants.

    Spaces, quotes, dashes, digits of all scripts, full width, ligatures and presentation forms become equal. Invisible
    characters and optional marks of Arabic and Hebrew are removed. Letters keep their case and accents.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_FOLDS))
    for decomposed, composed in _COMPOSED:
        text = text.replace(decomposed, composed)
    return text


def normalize(text: str) -> str:
    """Return the text as a data set is rewritten on request: NFC, plain spaces, no zero-width characters."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ZERO_WIDTH.sub("", _OTHER_SPACES.sub(" ", text)))


def is_nfc(text: str) -> bool:
    """Return whether the text is in Unicode normal form C."""
    return unicodedata.is_normalized("NFC", text)


def has_unusual_whitespace(text: str) -> bool:
    """Return whether the text contains a space other than the plain one, or a zero-width character."""
    return bool(_OTHER_SPACES.search(text) or _ZERO_WIDTH.search(text))


def fold_to_line(text: str) -> str:
    """Return the folded text with every run of white space as one space: the form in which rows are matched."""
    return " ".join(fold(text).split())
