"""The first layer: rows whose last user turn asks the same question, in any context. Torch-free."""

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

    A sign between or next to numbers has a meaning (3 + 4, 3 - 4, 2.5) and stays, and so does one after a letter as in
    C++ and C#.
    """
    folded = fold(text).casefold()
    if not folded.isascii():
        folded = "".join(map(_narrow, folded))
    return _SPACE.sub(" ", _SIGN.sub(_keep_meaningful_sign, folded).replace("_", " ")).strip()


def _narrow(sign: str) -> str:
    return unicodedata.normalize("NFKC", sign) if unicodedata.east_asian_width(sign) in "FH" else sign


def _keep_meaningful_sign(match: re.Match[str]) -> str:
    """Return a sign (neither letter, digit nor space) if it has a meaning, else a space."""
    sign, kind = match.group(), unicodedata.category(match.group())
    if kind[0] == "M" or kind in {"Sm", "Sc"}:
        return sign
    before = match.string[max(0, match.start() - 2) : match.start()].rstrip()[-1:]
    after = match.string[match.end() : match.end() + 2].lstrip()[:1]
    between_numbers = before.isdigit() and after.isdigit()
    return sign if between_numbers or (sign in "#*" and before.isalpha() and not after.isalpha()) else " "


def make_question_key(text: str) -> str:
    """Return the key that equal questions share. Spaces matter only between digits."""
    return re.sub(r"(?<!\d) | (?!\d)", "", canonicalize_text(text))


class QuestionIndex:
    """Forget rows indexed by their questions."""

    def __init__(self, forget: Sequence[RowText], vocabulary: WordWeights, *, max_rows: int) -> None:
        self._vocabulary = vocabulary
        self._rows: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for text in forget:
            for key in _make_keys(text):
                if len(self._rows[key]) < max_rows:  # a set may repeat a row many times
                    self._rows[key].append(text.row.number)

    def find_same_questions(self, other: RowText) -> Iterator[int]:
        """Yield the forget rows that ask what another row asks (or are the same plain text); answers may differ.

        The earlier turns may also differ if the last one names its subject. "Where does she live?" does not: it is the
        same question only after the same turns, or with the same distinctive answer.
        """
        after_turns, with_answer, alone = _make_keys(other)
        keys = [after_turns]
        if other.row.messages:
            content = extract_keywords(other.question, "") - get_asking_words()
            has_name = any(map(self._vocabulary.is_name, content))
            if has_name or (len(content) > 1 and not _has_case(other.question)):
                keys.append(alone)
            elif content and not is_generic_answer(extract_keywords(other.row.completion, "")):
                keys.append(with_answer)
        for key in keys:
            yield from self._rows.get(key, ())


def _make_keys(text: RowText) -> tuple[tuple[str, ...], ...]:
    """Return the keys of a row: its question after the earlier ones, with its answer, and alone."""
    if not text.row.messages:
        return (("text", make_question_key(text.row.completion)),) * 3
    users = [make_question_key(message.content) for message in text.row.messages if message.role == "user"]
    key = make_question_key(text.question)
    return ("turns", *users[:-1], key), ("answer", key, make_question_key(text.row.completion)), ("alone", key)


def _has_case(text: str) -> bool:
    return any(sign.isupper() or sign.islower() for sign in text)
