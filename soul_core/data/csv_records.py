"""CSV files to records: the delimiter found, spreadsheets' own lines and empty columns left out. Torch-free."""

import csv
import re
import sys
from collections.abc import Iterator
from typing import Any

from soul_core.data.records import Record, RowProblem
from soul_core.errors import BadData

Lines = Iterator[tuple[int, str]]

_DELIMITERS = ",;\t|"


def read_csv_records(lines: Lines) -> Iterator[Record | RowProblem]:
    """Yield records numbered by the line they begin on; the header is line 1 (2 after Excel's `sep=`)."""
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is shorter than a chapter; the caps above bound it
    first = next(lines, None)
    if first is None:
        return
    said = re.fullmatch(r'"?sep=(.)"?', first[1].strip(" "))
    if said and (first := next(lines, None)) is None:
        return
    delimiter = said[1] if said else max(_DELIMITERS, key=first[1].count)
    source = _Counted(first, lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        named = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise BadData(f"the CSV header cannot be read: {error}") from error
    header = [name or f"column_{i}" for i, name in enumerate(named, start=1)]
    if len(set(header)) < len(header):
        twice = [str(i) for i, name in enumerate(header, start=1) if header.count(name) > 1]
        raise BadData(f"columns {', '.join(twice)} of the CSV header have the same name; give each a name of its own")
    while True:
        begins = source.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield RowProblem(begins, None, f"not CSV: {error}; inside quotes, write a quote as two")
            continue
        if cells is None:
            return
        if cells:
            yield _record(begins, cells, named, header)


def _record(number: int, cells: list[str], named: list[str], header: list[str]) -> Record | RowProblem:
    if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
        cells = cells[: len(header)]  # a spreadsheet's empty cells
    if len(cells) != len(header):
        return RowProblem(number, None, f"{len(cells)} fields where the header has {len(header)}")
    if [cell.strip() for cell in cells] == named:
        return RowProblem(number, None, "repeats the header: were two files put together? take the line out")
    values: dict[str, Any] = {
        name: cell for name, cell, own in zip(header, cells, named, strict=True) if own or cell.strip()
    }
    return Record(number, values)


class _Counted:
    """Lines for csv.reader, and the number of the last one it took (a quoted field may span several)."""

    def __init__(self, first: tuple[int, str], rest: Lines) -> None:
        self._first: tuple[int, str] | None = first
        self._rest = rest
        self.number = first[0] - 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        first, self._first = self._first, None
        self.number, line = first or next(self._rest)
        return line + "\n"
