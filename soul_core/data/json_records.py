"""JSON files to records: one object per line, one array, or objects over several lines. Torch-free."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from soul_core.data.records import RawRow, RowProblem
from soul_core.errors import BadData

Lines = Iterator[tuple[int, str]]

_STRUCTURE = re.compile(r'["\\\[\]{}]')
_SPACE = " \t\r\n"
#: Nested brackets; a row needs a handful.
_MAX_DEPTH = 200
_OUTSIDE_ARRAY = "the file has content outside the JSON array; write one array, or one object per line"
_JSON_BEGINS = frozenset('{["-0123456789')
_NAN = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def read_json_records(lines: Lines) -> Iterator[RawRow | RowProblem]:
    """Yield records, numbered by their line; records of an array or over several lines are numbered by their order."""
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    opening = first[1].strip()
    lines = chain([first], lines)
    if opening.startswith("["):
        yield from (_record(index, text) for index, text in enumerate(_values(lines, at_depth=1), start=1))
    elif opening == "{":
        yield from (_record(index, text) for index, text in enumerate(_values(lines, at_depth=0), start=1))
    else:
        yield from (_record(number, line) for number, line in lines if line.strip())


def _record(number: int, text: str) -> RawRow | RowProblem:
    duplicate_names: set[str] = set()

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            duplicate_names.update(name for name in names if names.count(name) > 1)
        return values

    if text.lstrip()[:1] not in _JSON_BEGINS:
        return RowProblem(number, None, "not a JSON object in braces; for plain text set the format to text")
    try:
        values = json.loads(text, object_pairs_hook=to_object, parse_constant=_NAN.__getitem__)
    except json.JSONDecodeError as error:
        return RowProblem(number, None, f"not JSON: {error.msg} at character {error.colno}")
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        return RowProblem(number, None, f"not JSON: {detail}")
    if not isinstance(values, dict):
        return RowProblem(number, None, "not a JSON object; a row is an object with names such as prompt")
    return RawRow(number, values, tuple(sorted(duplicate_names)))


def _values(lines: Lines, *, at_depth: int) -> Iterator[str]:
    """Yield the text of each object inside `at_depth` brackets, and of anything else there.

    Holds one value in memory at a time. A line end closes a string, so that a stray quote spoils one value only.
    """
    depth, pieces, number = 0, list[str](), 0
    for number, line in lines:  # noqa: B007  the error message has the last one
        start = 0
        for place, bracket in _brackets(line):
            opens = bracket in "[{"
            if opens and depth <= at_depth:
                yield from _loose(line[start:place], inside=depth == at_depth)
                start = place if depth == at_depth else place + 1
            depth = _deeper(depth, bracket, inside=at_depth)
            if not opens and depth <= at_depth:
                text = "".join([*pieces, line[start : place + (depth == at_depth)]])
                yield from [text] if depth == at_depth else _loose(text, inside=True)
                pieces, start = [], place + 1
        if depth > at_depth:
            pieces += [line[start:], "\n"]
        else:
            yield from _loose(line[start:], inside=depth == at_depth)
    if depth or pieces:
        raise BadData(f"the JSON ends too soon, in line {number}: a bracket or a quote is never closed")


def _brackets(line: str) -> Iterator[tuple[int, str]]:
    """Yield index and character of each bracket of a line that is outside its strings."""
    in_string, place = False, 0
    while mark := _STRUCTURE.search(line, place):
        place, char = mark.end(), mark.group()
        if char == "\\":
            place += in_string
        elif char == '"':
            in_string = not in_string
        elif not in_string:
            yield mark.start(), char


def _deeper(depth: int, bracket: str, *, inside: int) -> int:
    if bracket in "]}":
        return max(depth - 1, 0)
    if depth < inside and bracket == "{":
        raise BadData(_OUTSIDE_ARRAY)
    if depth == _MAX_DEPTH:
        raise BadData(f"the JSON is nested more than {_MAX_DEPTH} levels deep; write one object per row")
    return depth + 1


def _loose(text: str, *, inside: bool) -> Iterator[str]:
    """Yield content between objects, where only commas belong, as invalid rows; raise BadData outside an array."""
    parts = [part for part in text.split(",") if part.strip(_SPACE)]
    if parts and not inside:
        raise BadData(_OUTSIDE_ARRAY)
    return iter(parts)
