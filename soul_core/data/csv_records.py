"""CSV files to records: detects the delimiter and skips lines and empty columns of spreadsheets. Torch-free."""

import csv
import re
import sys
from collections.abc import Iterator
from typing import Any

from soul_core.data.records import RawRow, RowProblem
from soul_core.errors import BadData

Lines = Iterator[tuple[int, str]]

_DELIMITERS = ",;\t|"


def read_csv_records(lines: Lines) -> Iterator[RawRow | RowProblem]:
    """Yield records, numbered by the line on which they begin; the header is line 1 (2 after Excel's `sep=`)."""
    # the default of 128 KiB is shorter than a chapter; DecompressedStream limits the complete file
    csv.field_size_limit(sys.maxsize)
    first = next(lines, None)
    if first is None:
        return
    separator_line = re.fullmatch(r'"?sep=(.)"?', first[1].strip(" "))
    if separator_line and (first := next(lines, None)) is None:
        return
    delimiter = separator_line[1] if separator_line else max(_DELIMITERS, key=first[1].count)
    source = _LineCounter(first, lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        names = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise BadData(f"the CSV header cannot be read: {error}") from error
    header = [name or f"column_{i}" for i, name in enumerate(names, start=1)]
    if len(set(header)) < len(header):
        duplicates = [str(i) for i, name in enumerate(header, start=1) if header.count(name) > 1]
        raise BadData(f"columns {', '.join(duplicates)} of the CSV header have the same name; give each its own name")
    while True:
        number = source.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield RowProblem(number, None, f"not CSV: {error}; write a quote inside quotes as two quotes")
            continue
        if cells is None:
            return
        if cells:
            yield _record(number, cells, names, header)


def _record(number: int, cells: list[str], names: list[str], header: list[str]) -> RawRow | RowProblem:
    if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
        cells = cells[: len(header)]  # a spreadsheet's empty cells
    if len(cells) != len(header):
        return RowProblem(number, None, f"{len(cells)} fields, but the header has {len(header)}")
    if [cell.strip() for cell in cells] == names:
        return RowProblem(number, None, "repeats the header (were two files joined?); remove the line")
    values: dict[str, Any] = {
        column: cell for column, cell, name in zip(header, cells, names, strict=True) if name or cell.strip()
    }
    return RawRow(number, values)


class _LineCounter:
    """Lines for csv.reader, and the number of the last one it read (a quoted field may span several)."""

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
