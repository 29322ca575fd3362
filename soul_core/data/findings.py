"""Warnings about rows that can be used: what was cleaned, what may surprise, with row numbers. Torch-free."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_core.data.cleaning import END_MARK, LINE_ENDS, WHITE_SPACE
from soul_core.data.columns import Row
from soul_core.data.names import KNOWN_EXTRA_COLUMNS
from soul_core.data.records import Record
from soul_core.formatting import format_list, format_row_numbers
from soul_core.texts import fold, has_unusual_whitespace, is_nfc

_MAX_LISTED_NAMES = 20
#: What programs write where there is no value.
_NULLS = frozenset({"nan", "none", "null", "nil", "n/a", "#n/a", "na", "<na>", "nat", "undefined"})
#: What chat templates write by themselves.
_CHAT_MARK = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<bos>|<eos>|</s>"
)
_CLEANED = {
    WHITE_SPACE: ("a prompt or an answer begins or ends with white space", "it was taken off"),
    LINE_ENDS: ("lines end in CR LF, or in CR alone", "they end in LF now"),
    END_MARK: (
        "a text begins or ends with a mark of a model, which tokenizers and chat templates write by themselves",
        "it was taken off",
    ),
}


@dataclass(frozen=True, slots=True)
class RowWarning:
    """Something about rows that can be used. `detail` names columns and never holds the content of a row."""

    kind: str
    detail: str
    rows: tuple[int, ...] = ()  # empty: it is about the file

    def format_line(self) -> str:
        """Return it as one line of text."""
        if not self.rows:
            return self.detail
        return f"row{'s' if len(self.rows) > 1 else ''} {format_row_numbers(self.rows)}: {self.detail}"


def make_cleaning_warnings(rows_by_kind: Mapping[str, Sequence[int]], *, cleaned: bool) -> Iterator[RowWarning]:
    """Yield what `clean_row` found, and whether it was changed. `found` is {kind: row numbers}."""
    for kind, (what, done) in _CLEANED.items():
        if rows := rows_by_kind.get(kind):
            rest = f"{done} (clean: false keeps it)" if cleaned else "it was kept, and is learned and scored as it is"
            yield RowWarning(kind, f"{what}; {rest}", tuple(rows))


def find_file_warnings(records: Sequence[Record], columns: Sequence[str], used: Sequence[str]) -> Iterator[RowWarning]:
    """Yield what the file holds and nothing reads: columns, and values that a second one of their name replaced."""
    if unread := [name for name in columns if name not in used and name not in KNOWN_EXTRA_COLUMNS]:
        names = format_list(unread, _MAX_LISTED_NAMES)
        detail = f"nothing reads these columns: {names}; a mapping can join one to the prompt"
        yield RowWarning("unread_columns", detail)
    if doubled := [record for record in records if record.duplicate_names]:
        names = format_list(sorted(name for record in doubled for name in record.duplicate_names), _MAX_LISTED_NAMES)
        detail = f"an object gives the same name twice ({names}), and the last value counts"
        yield RowWarning("doubled_names", detail, tuple(record.number for record in doubled))


def find_row_warnings(rows: Sequence[Row], *, normalized: Sequence[int] = ()) -> Iterator[RowWarning]:
    """Yield what is odd about rows as they are used. `normalized`: rows that were rewritten on request."""
    if normalized:
        detail = "rewritten in normal form C with plain spaces, without zero-width marks"
        yield RowWarning("normalized", detail, tuple(normalized))
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        texts = [message.content for message in row.messages] + [row.completion]
        others = [text for name in KNOWN_EXTRA_COLUMNS for text in _texts_in(row.extra.get(name))]
        if not all(map(is_nfc, texts + others)):
            found["normal_form"].append(row.number)
        if any(map(has_unusual_whitespace, texts)):
            found["unseen_marks"].append(row.number)
        if any(text.strip().lower() in _NULLS for text in texts):
            found["null_text"].append(row.number)
        if any(map(_CHAT_MARK.search, texts)):
            found["chat_marks"].append(row.number)
    found["several_answers"] = _asked_again(rows)
    for kind, detail in _ODD.items():
        if numbers := found.get(kind):
            yield RowWarning(kind, detail, tuple(numbers))


_ODD = {
    "normal_form": "the text is not in Unicode normal form C (as from macOS): it looks the same and has other tokens. "
    "It goes to the model as it is; normalize: true rewrites it",
    "unseen_marks": "the text holds no-break spaces or marks without width, which have tokens of their own. It goes to "
    "the model as it is; normalize: true rewrites it",
    "null_text": "a prompt or an answer is a word that programs write for a missing value (NaN, None, null, ...)",
    "chat_marks": "the text holds marks that chat templates write by themselves; give prompt and answer without them",
    "several_answers": "the same prompt has different answers in several rows; is a part of the prompt in a column "
    "that nothing reads?",
}


def make_row_key(row: Row) -> tuple[str, ...]:
    """Return what makes a row the same as another: its folded texts, white space made equal; the answer last."""
    texts = [text for message in row.messages for text in (message.role, message.content)]
    return tuple(" ".join(fold(text).split()) for text in [*texts, row.completion])


def _asked_again(rows: Sequence[Row]) -> list[int]:
    """Return the rows whose prompt other rows have too, with another answer."""
    answers: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    keys = {row.number: make_row_key(row) for row in rows if row.messages}
    for key in keys.values():
        answers[key[:-1]].add(key[-1])
    return [number for number, key in keys.items() if len(answers[key[:-1]]) > 1]


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str)]
    return [value] if isinstance(value, str) else []
