"""The first layer: rows whose last user turn is the same question, whatever stands around it. Torch-free."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from soul_core.conflicts.vocabulary import RowText, WordWeights, get_asking_words, is_generic_answer
from soul_core.texts import extract_keywords, fold

_SPACE = re.compile(r"\s+")
_SIGN = re.compile(r"[^\w\s]")


def canonicalize_text(text: str) -> str:
    """Return a text without case, punctuation, typographic variants and runs of white space.

    A sign between or beside numbers is part of what they say (3 + 4, 3 - 4, 2.5), and so is one behind a letter as in
    C++ and C#.
    """
    signs = fold(text).casefold()
    if not signs.isascii():
        signs = "".join(map(_narrow, signs))
    return _SPACE.sub(" ", _SIGN.sub(_kept, signs).replace("_", " ")).strip()


def _narrow(sign: str) -> str:
    return unicodedata.normalize("NFKC", sign) if unicodedata.east_asian_width(sign) in "FH" else sign


def _kept(match: re.Match[str]) -> str:
    """Return a sign that is no letter, digit or space where it says something, else a space."""
    sign, kind = match.group(), unicodedata.category(match.group())
    if kind[0] == "M" or kind in {"Sm", "Sc"}:
        return sign
    before = match.string[max(0, match.start() - 2) : match.start()].rstrip()[-1:]
    after = match.string[match.end() : match.end() + 2].lstrip()[:1]
    between_numbers = before.isdigit() and after.isdigit()
    return sign if between_numbers or (sign in "#*" and before.isalpha() and not after.isalpha()) else " "


def make_question_key(text: str) -> str:
    """Return what makes two questions the same. Spaces count only between digits."""
    return re.sub(r"(?<!\d) | (?!\d)", "", canonicalize_text(text))


class QuestionIndex:
    """Forget rows by what they ask."""

    def __init__(self, forget: Sequence[RowText], vocabulary: WordWeights, *, max_rows: int) -> None:
        self._vocabulary, self._most = vocabulary, max_rows
        self._rows: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for text in forget:
            for kind in _kinds(text):
                if len(self._rows[kind]) < max_rows:  # a set may repeat itself endlessly
                    self._rows[kind].append(text.row.number)

    def find_same_questions(self, other: RowText) -> Iterator[int]:
        """Yield the forget rows that ask what another row asks (or are the same plain text); answers may differ.

        The turns before the last one may differ too where the last one names its subject. "Where does she live?" does
        not: it is the same question only after the same turns, or with the same telling answer.
        """
        in_place, by_answer, alone = _kinds(other)
        kinds = [in_place]
        if other.row.messages:
            content = extract_keywords(other.question, "") - get_asking_words()
            named = any(map(self._vocabulary.is_name, content))
            if named or (len(content) > 1 and not _has_case(other.question)):
                kinds.append(alone)
            elif content and not is_generic_answer(extract_keywords(other.row.completion, "")):
                kinds.append(by_answer)
        for kind in kinds:
            yield from self._rows.get(kind, ())


def _kinds(text: RowText) -> tuple[tuple[str, ...], ...]:
    """Return the keys of a row: its question after its earlier ones, with its answer, and alone."""
    if not text.row.messages:
        return (("text", make_question_key(text.row.completion)),) * 3
    users = [make_question_key(message.content) for message in text.row.messages if message.role == "user"]
    key = make_question_key(text.question)
    return ("turns", *users[:-1], key), ("answer", key, make_question_key(text.row.completion)), ("alone", key)


def _has_case(text: str) -> bool:
    return any(sign.isupper() or sign.islower() for sign in text)
