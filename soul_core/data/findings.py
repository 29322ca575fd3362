"""Warnings about usable rows: what was cleaned and what may be a mistake, with row numbers. Torch-free."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_core.data.cleaning import END_MARK, LINE_ENDS, WHITE_SPACE
from soul_core.data.columns import Row
from soul_core.data.names import KNOWN_EXTRA_COLUMNS
from soul_core.data.records import RawRow
from soul_core.formatting import format_list, format_row_numbers
from soul_core.texts import fold, has_unusual_whitespace, is_nfc

_MAX_LISTED_NAMES = 20
#: What programs write for a missing value.
_NULLS = frozenset({"nan", "none", "null", "nil", "n/a", "#n/a", "na", "<na>", "nat", "undefined"})
#: What chat templates write.
_CHAT_MARK = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<bos>|<eos>|</s>"
)
_CLEANED = {
    WHITE_SPACE: ("a prompt or an answer begins or ends with white space", "it was removed"),
    LINE_ENDS: ("lines end in CR LF or in CR", "they now end in LF"),
    END_MARK: (
        "a text begins or ends with a special token of a model, which tokenizers and chat templates add",
        "it was removed",
    ),
}


@dataclass(frozen=True, slots=True)
class RowWarning:
    """A warning about usable rows. `detail` names columns and never holds the content of a row."""

    kind: str
    detail: str
    rows: tuple[int, ...] = ()  # empty: the warning is about the file

    def format_line(self) -> str:
        """Return the warning as one line of text."""
        if not self.rows:
            return self.detail
        return f"row{'s' if len(self.rows) > 1 else ''} {format_row_numbers(self.rows)}: {self.detail}"


def make_cleaning_warnings(rows_by_kind: Mapping[str, Sequence[int]], *, cleaned: bool) -> Iterator[RowWarning]:
    """Yield a warning per kind that `clean_row` found.

    Args:
        rows_by_kind: kind -> row numbers.
        cleaned: whether the rows were changed.
    """
    for kind, (problem, change) in _CLEANED.items():
        if rows := rows_by_kind.get(kind):
            effect = f"{change} (clean: false keeps it)" if cleaned else "it is learned and scored unchanged"
            yield RowWarning(kind, f"{problem}; {effect}", tuple(rows))


def find_file_warnings(records: Sequence[RawRow], columns: Sequence[str], used: Sequence[str]) -> Iterator[RowWarning]:
    """Yield warnings about content that is not read: columns, and values replaced by a second one of the same name."""
    if unread := [name for name in columns if name not in used and name not in KNOWN_EXTRA_COLUMNS]:
        names = format_list(unread, _MAX_LISTED_NAMES)
        detail = f"these columns are not read: {names}; a mapping can join one to the prompt"
        yield RowWarning("unread_columns", detail)
    if with_duplicates := [record for record in records if record.duplicate_names]:
        duplicate_names = {name for record in with_duplicates for name in record.duplicate_names}
        names = format_list(sorted(duplicate_names), _MAX_LISTED_NAMES)
        detail = f"an object has the same name twice ({names}); the last value is used"
        yield RowWarning("doubled_names", detail, tuple(record.number for record in with_duplicates))


def find_row_warnings(rows: Sequence[Row], *, normalized: Sequence[int] = ()) -> Iterator[RowWarning]:
    """Yield warnings about rows as they are used.

    Args:
        normalized: numbers of the rows that were rewritten on request.
    """
    if normalized:
        detail = "rewritten in Unicode normal form C with plain spaces, without zero-width characters"
        yield RowWarning("normalized", detail, tuple(normalized))
    rows_by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        texts = [message.content for message in row.messages] + [row.completion]
        others = [text for name in KNOWN_EXTRA_COLUMNS for text in _texts_in(row.extra.get(name))]
        if not all(map(is_nfc, texts + others)):
            rows_by_kind["normal_form"].append(row.number)
        if any(map(has_unusual_whitespace, texts)):
            rows_by_kind["unseen_marks"].append(row.number)
        if any(text.strip().lower() in _NULLS for text in texts):
            rows_by_kind["null_text"].append(row.number)
        if any(map(_CHAT_MARK.search, texts)):
            rows_by_kind["chat_marks"].append(row.number)
    rows_by_kind["several_answers"] = _find_rows_with_several_answers(rows)
    for kind, detail in _ROW_WARNINGS.items():
        if numbers := rows_by_kind.get(kind):
            yield RowWarning(kind, detail, tuple(numbers))


_ROW_WARNINGS = {
    "normal_form": "the text is not in Unicode normal form C (as from macOS): it looks the same and has other tokens. "
    "The model reads it unchanged; normalize: true rewrites it",
    "unseen_marks": "the text contains no-break spaces or zero-width characters, which have their own tokens. The "
    "model reads it unchanged; normalize: true rewrites it",
    "null_text": "a prompt or an answer is a word that programs write for a missing value (NaN, None, null, ...)",
    "chat_marks": "the text contains special tokens that chat templates write; give prompt and answer without them",
    "several_answers": "the same prompt has different answers in several rows; is a part of the prompt in a column "
    "that is not read?",
}


def make_row_key(row: Row) -> tuple[str, ...]:
    """Return the key by which two rows are equal: their folded texts with equal white space, the answer last."""
    texts = [text for message in row.messages for text in (message.role, message.content)]
    return tuple(" ".join(fold(text).split()) for text in [*texts, row.completion])


def _find_rows_with_several_answers(rows: Sequence[Row]) -> list[int]:
    """Return the rows whose prompt other rows have with another answer."""
    answers: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    keys = {row.number: make_row_key(row) for row in rows if row.messages}
    for key in keys.values():
        answers[key[:-1]].add(key[-1])
    return [number for number, key in keys.items() if len(answers[key[:-1]]) > 1]


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str)]
    return [value] if isinstance(value, str) else []
