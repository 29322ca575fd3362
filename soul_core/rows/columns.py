"""Records to rows: which columns make a prompt and a completion, and what is wrong with a row. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soul_core.errors import BadData
from soul_core.rows.formats import Record, RowProblem

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt (no messages: plain text) and the completion that is learned or forgotten."""

    number: int  # 1-based line or record in the file the user sent
    messages: tuple[Message, ...]
    completion: str
    extra: dict[str, Any] = field(default_factory=dict)


#: Accepted column sets, the preferred first. messages + completion is what `rows.write_canonical` writes.
SHAPES: tuple[tuple[str, ...], ...] = (
    ("messages", "completion"),
    ("messages",),
    ("prompt", "completion"),
    ("question", "answer"),
    ("text",),
)
CANONICAL = SHAPES[0]
_NEEDED = "messages, or prompt and completion, or question and answer, or text, or a mapping of your names to these"


def rename(records: Sequence[Record], mapping: Mapping[str, str]) -> list[Record]:
    """Give columns their accepted names: `mapping` is {accepted name: the file's name}. Raises BadData."""
    found = columns_of(records)
    if missing := [theirs for theirs in mapping.values() if theirs not in found]:
        raise BadData(
            f"the mapping names columns the file does not have: {', '.join(missing)}; found: {', '.join(found)}"
        )
    ours = {theirs: name for name, theirs in mapping.items()}
    if len(ours) < len(mapping):
        raise BadData("the mapping gives one column two names")
    renamed = []
    for record in records:
        kept = {name: value for name, value in record.values.items() if name not in mapping or name in ours}
        renamed.append(Record(record.number, {ours.get(name, name): value for name, value in kept.items()}))
    return renamed


def columns_of(records: Sequence[Record]) -> tuple[str, ...]:
    """Return every column name, in order of first appearance."""
    return tuple({name: None for record in records for name in record.values})


def choose_shape(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the column set that fits most records. Raises BadData when none fits any."""
    fits = {shape: sum(all(name in record.values for name in shape) for record in records) for shape in SHAPES}
    best = max(SHAPES, key=fits.__getitem__)  # the first of equals
    if fits[best] == 0:
        raise BadData(f"no usable columns. Found: {', '.join(columns_of(records)) or 'none'}. Needed: {_NEEDED}")
    return best


def to_row(record: Record, shape: tuple[str, ...]) -> Row | list[RowProblem]:
    """Read one record as `shape` says, or say all that is wrong with it."""
    values = record.values
    details = {name: _fault(name, values.get(name), missing=name not in values) for name in shape}
    problems = [RowProblem(record.number, name, detail) for name, detail in details.items() if detail is not None]
    messages: tuple[Message, ...] = ()
    if "messages" in shape and not problems:
        messages, faults = _messages(values["messages"], canonical=shape == CANONICAL)
        problems += [RowProblem(record.number, "messages", fault) for fault in faults]
    if problems:
        return problems
    number = record.number
    extra = {name: _plain(value) for name, value in values.items() if name not in shape}
    if shape == CANONICAL:
        kept = extra.pop("number", number)
        number = kept if isinstance(kept, int) else number
        completion = values["completion"]
    elif shape == ("messages",):
        messages, completion = messages[:-1], messages[-1].content
    elif shape == ("text",):
        completion = values["text"]
    else:
        messages, completion = (Message("user", values[shape[0]]),), values[shape[1]]
    return Row(number, messages, completion, extra)


def _fault(name: str, value: Any, *, missing: bool) -> str | None:
    if missing:
        return "missing"
    if name == "messages":
        return None
    if not isinstance(value, str):
        return f"must be text, is {_kind(value)}"
    return _text_fault(value)


def _text_fault(text: str) -> str | None:
    if not text.strip():
        return "empty"
    if "\0" in text:
        return "contains a NUL character"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "contains half of a surrogate pair, which no encoding can write"
    return None


def _messages(value: Any, *, canonical: bool) -> tuple[tuple[Message, ...], list[str]]:
    """Return the messages and what is wrong with them. A canonical prompt may be empty and ends before the answer."""
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except ValueError:
            return (), ["not a JSON list of messages"]
    if not isinstance(value, list):
        return (), [f"must be a list of messages, is {_kind(value)}"]
    faults, messages = [], []
    for index, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            faults.append(f"message {index}: must be an object with role and content, is {_kind(turn)}")
            continue
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            faults.append(f"message {index}: role must be one of {', '.join(ROLES)}")
        elif not isinstance(content, str):
            faults.append(f"message {index}: content must be text, is {_kind(content)}")
        elif (detail := _text_fault(content)) is not None:
            faults.append(
                f"message {index}: content {detail}" if " " in detail else f"message {index}: content is {detail}"
            )
        else:
            messages.append(Message(role, content))
    if not canonical and not faults:
        if len(messages) < 2:
            faults.append("needs a prompt and the assistant's answer: at least two messages")
        elif messages[-1].role != "assistant":
            faults.append("the last message must be the assistant's: it is the completion")
    return tuple(messages), faults


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "a list" if isinstance(value, list) else f"a {type(value).__name__}")


def _plain(value: Any) -> Any:
    """Return what JSON can hold: Parquet also has dates, decimals and NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else None  # noqa: PLR0124  NaN is not itself
    return value if value is None or isinstance(value, str | int) else str(value)
