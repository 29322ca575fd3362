"""Records to rows: chooses the columns of prompt and completion, and reports rows that cannot be read. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soul_core.data.messages import Message, describe_type, find_text_fault, read_messages
from soul_core.data.names import ACCEPTED_NAMES, CANONICAL_COLUMNS, COLUMN_SETS, JOINED_COLUMNS, SYSTEM
from soul_core.data.records import RawRow, RowProblem
from soul_core.errors import BadData
from soul_core.formatting import format_list


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt (no messages: plain text) and the completion that is learned or forgotten."""

    number: int  # 1-based line or record in the file the user sent
    messages: tuple[Message, ...]
    completion: str
    extra: dict[str, Any] = field(default_factory=dict)
    joint: str = ""
    """White space between prompt and answer that cleaning removed. A model without a chat template reads it again."""


_NEEDED = (
    "messages, or prompt and completion, or question and answer, or instruction and output, or conversations, or text, "
    "or a mapping of your names to these (prompt=YOURS; prompt=ONE+OTHER joins two)"
)


_MAX_LISTED_COLUMNS, _MAX_NAME_CHARS = 20, 60


def resolve_columns(
    mapping: Mapping[str, str], columns: Sequence[str], *, names_are_content: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return accepted name -> the file's columns. `a+b` names two columns, unless the file has a column `a+b`.

    Raises:
        BadData: the file does not have a column, or a column is named twice.
    """
    sources = {
        name: (theirs,) if theirs in columns else tuple(part.strip() for part in theirs.split("+"))
        for name, theirs in mapping.items()
    }
    named = [theirs for parts in sources.values() for theirs in parts]
    if missing := [theirs for theirs in named if theirs not in columns]:
        other = f"its first line has {len(columns)} other fields" if names_are_content else f"it has: {_join(columns)}"
        raise BadData(f"the mapping names columns that the file does not have: {', '.join(missing)}; {other}")
    if len(set(named)) < len(named):
        raise BadData("the mapping gives one column two names; name each column once")
    return sources


def rename_columns(records: Sequence[RawRow], sources: Mapping[str, tuple[str, ...]]) -> list[RawRow]:
    """Give columns their accepted names and join several into one. An unmapped column of such a name is dropped."""
    mapped = {theirs for parts in sources.values() for theirs in parts}
    renamed = []
    for record in records:
        values = {name: value for name, value in record.values.items() if name not in mapped and name not in sources}
        for name, parts in sources.items():
            texts = [record.values[theirs] for theirs in parts if theirs in record.values]
            if texts:
                values[name] = join_texts(texts)
        renamed.append(RawRow(record.number, values, record.duplicate_names))
    return renamed


def join_texts(values: Sequence[Any]) -> Any:
    """Join texts with a blank line between them, without empty ones and null. If a value is not text, return that."""
    if len(values) == 1:
        return values[0]
    if (wrong := next((value for value in values if not isinstance(value, str | None)), None)) is not None:
        return wrong
    return "\n\n".join(value for value in values if value is not None and value.strip())


def list_columns(records: Sequence[RawRow]) -> tuple[str, ...]:
    """Return every column name, in order of first appearance."""
    return tuple({name: None for record in records for name in record.values})


def match_ignoring_case(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return accepted name -> column for columns that differ only in case or outer spaces, as Question and question."""
    names = {name: name.strip().lower() for name in columns if name.strip().lower() in ACCEPTED_NAMES}
    return {ours: (name,) for name, ours in names.items() if list(names.values()).count(ours) == 1 and ours != name}


def choose_column_set(records: Sequence[RawRow], *, names_are_content: bool = False) -> tuple[str, ...]:
    """Return the column set that fits the most records.

    Args:
        names_are_content: the names are the first line of a CSV file, which may be a row, so no message quotes them.

    Raises:
        BadData: no column set fits any record.
    """
    num_fits = {
        column_set: sum(all(name in record.values for name in column_set) for record in records)
        for column_set in COLUMN_SETS
    }
    best = max(COLUMN_SETS, key=num_fits.__getitem__)  # the first of equals
    if num_fits[best] == 0:
        _refuse_other_forms(records)
        columns = list_columns(records)
        problem = (
            f"the first line has {len(columns)} fields, and none is a known column name (a CSV file needs a header as "
            "its first line: question,answer)"
            if names_are_content
            else f"no usable columns. Found: {_join(columns)}"
        )
        raise BadData(f"{problem}. Needed: {_NEEDED}")
    _refuse_tables(records, best)
    return best


def _join(names: Sequence[str]) -> str:
    return format_list((name[:_MAX_NAME_CHARS] for name in names), _MAX_LISTED_COLUMNS) or "none"


def _refuse_other_forms(records: Sequence[RawRow]) -> None:
    """Raise BadData if the rows are inside lists of one object: {"train": [...], "test": [...]}."""
    lists_of_rows = [
        name
        for name, value in records[0].values.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    ]
    if len(records) == 1 and lists_of_rows:
        raise BadData(
            f"the rows are in lists inside one object ({', '.join(lists_of_rows)}); upload each list as a "
            f"separate file (jq -c '.{lists_of_rows[0]}[]' writes one)"
        )
    if len(records) == 1 and {"columns", "data"} <= records[0].values.keys():
        raise BadData(_BY_COLUMNS)


_BY_COLUMNS = (
    "the file is one table by columns, as pandas' to_json writes it; write one object per row "
    "(orient='records', lines=True)"
)


def _refuse_tables(records: Sequence[RawRow], column_set: tuple[str, ...]) -> None:
    values = [records[0].values.get(name) for name in column_set if name not in {"messages", "conversations"}]
    if len(records) == 1 and values and all(isinstance(value, dict | list) and value for value in values):
        raise BadData(_BY_COLUMNS)


def list_used_columns(column_set: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the accepted names that make prompt and completion: those of the set, and those joined to it."""
    further = (*JOINED_COLUMNS.get(column_set, ()), *((SYSTEM,) if _takes_system(column_set) else ()))
    return (*column_set, *(name for name in further if name in columns))


def _takes_system(column_set: tuple[str, ...]) -> bool:
    return column_set not in {CANONICAL_COLUMNS, ("messages",), ("text",)}


def to_row(record: RawRow, column_set: tuple[str, ...]) -> Row | list[RowProblem]:
    """Read one record by its column set; return the row, or every problem of the record."""
    values = dict(record.values)
    for name in JOINED_COLUMNS.get(column_set, ()):
        if name in values and column_set[0] in values:
            values[column_set[0]] = join_texts([values[column_set[0]], values.pop(name)])
    system = values.pop(SYSTEM, None) if _takes_system(column_set) else None
    details = {name: _fault(name, values, record) for name in column_set}
    if system is not None and not isinstance(system, str):
        details[SYSTEM] = f"must be text, is {describe_type(system)}"
    problems = [RowProblem(record.number, name, detail) for name, detail in details.items() if detail is not None]
    messages: tuple[Message, ...] = ()
    if column_set[0] in {"messages", "conversations"} and not problems:
        messages, faults = read_messages(values[column_set[0]], canonical=column_set == CANONICAL_COLUMNS)
        problems += [RowProblem(record.number, column_set[0], fault) for fault in faults]
    if problems:
        return problems
    extra = {name: to_json_value(value) for name, value in values.items() if name not in column_set}
    if column_set == CANONICAL_COLUMNS:
        number, joint = extra.pop("number", record.number), extra.pop("joint", "")
        number = number if isinstance(number, int) else record.number
        return Row(number, messages, values["completion"], extra, joint if isinstance(joint, str) else "")
    if column_set[0] in {"messages", "conversations"}:
        messages, completion = messages[:-1], messages[-1].content
    elif column_set == ("text",):
        completion = values["text"]
    else:
        messages, completion = (Message("user", values[column_set[0]]),), values[column_set[1]]
    if isinstance(system, str) and system.strip() and not any(message.role == SYSTEM for message in messages):
        messages = (Message(SYSTEM, system), *messages)
    return Row(record.number, messages, completion, extra)


def _fault(name: str, values: Mapping[str, Any], record: RawRow) -> str | None:
    if name not in values:
        others = [other for other in record.values if other in ACCEPTED_NAMES]
        return f"missing; this row has {', '.join(others)}" if others else "missing"
    if name in {"messages", "conversations"}:
        return None
    if not isinstance(values[name], str):
        return f"must be text, is {describe_type(values[name])}"
    return find_text_fault(values[name])


def to_json_value(value: Any) -> Any:
    """Return the value as JSON can hold it: Parquet also has dates, decimals and NaN."""
    if isinstance(value, dict):
        return {str(key): to_json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(inner) for inner in value]
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else None  # noqa: PLR0124  NaN is not itself
    return value if value is None or isinstance(value, str | int) else str(value)
