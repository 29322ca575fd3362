"""JSON files to records: one object a line, one array, or objects printed over several lines. Torch-free."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from soul_core.errors import BadData
from soul_core.rows.records import Record, RowProblem

Lines = Iterator[tuple[int, str]]

_STRUCTURE = re.compile(r'["\\\[\]{}]')
_SPACE = " \t\r\n"
#: Brackets within brackets; a row needs a handful.
_MAX_DEPTH = 200
_JSON_BEGINS = frozenset('{["-0123456789tfnNI')
_NAN = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def json_records(lines: Lines) -> Iterator[Record | RowProblem]:
    """Yield records, numbered by their line; those of an array, or printed over several lines, by their place."""
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    opening = first[1].strip()
    lines = chain([first], lines)
    if opening.startswith("["):
        yield from (_record(index, text) for index, text in enumerate(_array_elements(lines), start=1))
    elif opening == "{":
        yield from (_record(index, text) for index, text in enumerate(_values(lines), start=1))
    else:
        yield from (_record(number, line) for number, line in lines if line.strip())


def _record(number: int, text: str) -> Record | RowProblem:
    doubled: set[str] = set()

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            doubled.update(name for name in names if names.count(name) > 1)
        return found

    if text.lstrip()[:1] not in _JSON_BEGINS:
        return RowProblem(number, None, "not JSON: a row is one object in braces; plain text is read as format text")
    try:
        values = json.loads(text, object_pairs_hook=to_object, parse_constant=_NAN.__getitem__)
    except json.JSONDecodeError as error:
        return RowProblem(number, None, f"not JSON: {error.msg} at character {error.colno}")
    except (ValueError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        return RowProblem(number, None, f"not JSON: {detail}")
    if not isinstance(values, dict):
        return RowProblem(number, None, "not a JSON object: each row is an object with names, as prompt and completion")
    return Record(number, values, tuple(sorted(doubled)))


def _values(lines: Lines, *, at_depth: int = 0) -> Iterator[str]:
    """Yield the text of each value at `at_depth` brackets; commas and white space between them are left out.

    Memory: one value at a time. An end of line ends a string, so that a quote too many spoils one value only.
    """
    depth, in_string, pieces = 0, False, list[str]()
    for _, line in lines:
        start = 0
        place = 0
        while mark := _STRUCTURE.search(line, place):
            place, char = mark.end(), mark.group()
            if char == "\\":
                place += in_string
            elif char == '"':
                in_string = not in_string
            elif in_string:
                continue
            elif char in "[{":
                if depth == at_depth:
                    yield from _bare_values(line[start : mark.start()])
                    start = mark.start()
                if depth < at_depth:
                    yield from _between_arrays(line[start : mark.start()])
                    start = mark.end()
                depth += 1
                if depth > _MAX_DEPTH:
                    raise BadData("the JSON is nested too deeply to hold rows")
            else:
                depth -= 1
                if depth == at_depth:
                    yield "".join([*pieces, line[start : mark.end()]])
                    pieces, start = [], mark.end()
                elif depth < at_depth:
                    yield from _bare_values(line[start : mark.start()])
                    start = mark.end()
                depth = max(depth, 0)
        in_string = False
        if depth > at_depth:
            pieces += [line[start:], "\n"]
        elif depth == at_depth:
            yield from _bare_values(line[start:])
        else:
            yield from _between_arrays(line[start:])
    if depth or pieces:
        raise BadData("the JSON ends too soon: a bracket is never closed; is the file complete?")


def _array_elements(lines: Lines) -> Iterator[str]:
    return _values(lines, at_depth=1)


def _bare_values(text: str) -> Iterator[str]:
    """Yield what stands between objects where only commas belong: a text or number there is a row that is none."""
    return (part for part in text.split(",") if part.strip(_SPACE))


def _between_arrays(text: str) -> Iterator[str]:
    if text.strip(_SPACE + ","):
        raise BadData(
            "something other than an array stands beside the JSON array; write one array, or one object a line"
        )
    return iter(())
