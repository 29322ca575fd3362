"""Rows of a data set: read from any accepted file, summarized, written as the JSON lines the engine reads.

Torch-free: the API and the engine read data with the same code. `formats` turns files into records,
`columns` records into rows.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.data.cleaning import clean_row, normalize_row
from soul_core.data.columns import (
    Row,
    choose_column_set,
    list_columns,
    list_used_columns,
    match_ignoring_case,
    rename_columns,
    resolve_columns,
    to_row,
)
from soul_core.data.compression import MAX_EXPANDED_BYTES
from soul_core.data.findings import (
    RowWarning,
    find_file_warnings,
    find_row_warnings,
    make_cleaning_warnings,
    make_row_key,
)
from soul_core.data.formats import CHUNK_CHARS, FORMATS, Format, guess_format, read_records
from soul_core.data.messages import Message
from soul_core.data.names import ACCEPTED_NAMES, CANONICAL_COLUMNS, CANONICAL_PREFIX
from soul_core.data.records import Record, RowProblem
from soul_core.errors import BadData

__all__ = [
    "FORMATS",
    "MAX_EXPANDED_BYTES",
    "Format",
    "Message",
    "ReadResult",
    "Row",
    "RowProblem",
    "RowWarning",
    "RowsBySet",
    "Validation",
    "compute_canonical_sha256",
    "guess_format",
    "read_rows",
    "validate_rows",
    "write_canonical",
]

#: Name of a data set -> its rows.
RowsBySet = Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file held: the good rows, and every bad one by number."""

    rows: tuple[Row, ...]
    problems: tuple[RowProblem, ...]
    format: Format
    columns: tuple[str, ...]  # found in the file, in order
    used_columns: tuple[str, ...]  # those that made prompt and completion
    warnings: tuple[RowWarning, ...] = ()

    def require_valid_rows(self) -> tuple[Row, ...]:
        """Return the rows; raise BadData listing every bad one if there is any."""
        if self.problems:
            numbers = {problem.number for problem in self.problems}
            raise BadData(
                f"{len(numbers)} of {len(self.rows) + len(numbers)} rows cannot be used",
                details=tuple(_line(problem) for problem in self.problems),
            )
        return self.rows


@dataclass(frozen=True, slots=True)
class Validation:
    """The summary a user sees of an uploaded data set."""

    num_rows: int
    problems: tuple[RowProblem, ...]
    duplicates: tuple[tuple[int, ...], ...]  # groups of row numbers with the same prompt and completion
    columns: tuple[str, ...]
    used_columns: tuple[str, ...]
    warnings: tuple[RowWarning, ...]
    format: Format
    sha256: str  # of the canonical rows

    @property
    def is_usable(self) -> bool:
        return self.num_rows > 0 and not self.problems


def read_rows(
    path: Path | str,
    *,
    format: Format | None = None,  # noqa: A002  the word of the API
    mapping: Mapping[str, str] | None = None,
    name: str | None = None,
    clean: bool = True,
    normalize: bool = False,
    max_expanded_bytes: int = MAX_EXPANDED_BYTES,
    chunk_chars: int = CHUNK_CHARS,
) -> ReadResult:
    """Read a data set, plain or compressed. Bad rows are listed, never raised.

    The format is `format`, else what `name` (the user's file name; the path's by default) promises, else guessed from
    the content. `mapping` is {accepted column name: the file's}; `one+other` joins two columns with a blank line.
    `clean` takes white space and end-of-turn marks off prompts and answers; a file that `write_canonical` wrote is
    never cleaned again. `normalize` rewrites all texts in NFC with plain spaces. What was done, and what is odd about
    the rows, is in the reading's warnings. Raises BadData when nothing can be read: an empty, damaged or oversized
    file, one that is not UTF-8, one without usable columns.
    """
    path = Path(path)
    found_format, stream = read_records(
        path,
        format=format,
        name=name or path.name,
        max_expanded_bytes=max_expanded_bytes,
        chunk_chars=chunk_chars,
    )
    items = list(stream)
    records = [item for item in items if isinstance(item, Record)]
    problems = [item for item in items if isinstance(item, RowProblem)]
    columns = list_columns(records)
    if not records:
        if not problems:
            raise BadData("the data set is empty: it has no rows")
        return ReadResult((), tuple(problems), found_format, columns, ())
    canonical = all(tuple(record.values)[:3] == CANONICAL_PREFIX for record in records)
    sources = resolve_columns(mapping, columns, names_are_content=found_format == "csv") if mapping else {}
    if not sources and not ACCEPTED_NAMES & set(columns):
        sources = match_ignoring_case(columns)
    if sources:
        records = rename_columns(records, sources)
    shape = choose_column_set(records, names_are_content=found_format == "csv")
    rows: list[Row] = []
    for record in records:
        row = to_row(record, shape)
        if isinstance(row, Row):
            rows.append(row)
        else:
            problems += row
    problems.sort(key=lambda problem: problem.number)
    used = _in_the_file(list_used_columns(shape, list_columns(records)), sources)
    about = (
        [] if canonical else [*find_file_warnings(records, columns, [*used, *(c for s in sources.values() for c in s)])]
    )
    rows, more = _prepare(rows, clean=clean and not canonical, normalize=normalize)
    return ReadResult(tuple(rows), tuple(problems), found_format, columns, used, (*about, *more))


def _in_the_file(names: Sequence[str], sources: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(theirs for name in names for theirs in sources.get(name, (name,)))


def _prepare(rows: Sequence[Row], *, clean: bool, normalize: bool) -> tuple[list[Row], list[RowWarning]]:
    """Return the rows as they are used, and what there is to tell of them."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    normalized: list[int] = []
    prepared = []
    for row in rows:
        normal = normalize_row(row) if normalize else row
        if normal != row:
            normalized.append(row.number)
        cleaned, kinds = clean_row(normal)
        for kind in kinds:
            found[kind].append(row.number)
        prepared.append(cleaned if clean else normal)
    return prepared, [
        *make_cleaning_warnings(found, cleaned=clean),
        *find_row_warnings(prepared, normalized=normalized),
    ]


def validate_rows(read_result: ReadResult) -> Validation:
    """Summarize a reading."""
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in read_result.rows:
        groups[make_row_key(row)].append(row.number)
    return Validation(
        num_rows=len(read_result.rows),
        problems=read_result.problems,
        duplicates=tuple(tuple(numbers) for numbers in groups.values() if len(numbers) > 1),
        columns=read_result.columns,
        used_columns=read_result.used_columns,
        warnings=read_result.warnings,
        format=read_result.format,
        sha256=compute_canonical_sha256(read_result.rows),
    )


def write_canonical(rows: Sequence[Row], path: Path | str) -> str:
    """Write the JSON lines the engine reads, original row numbers kept, and return their sha256."""
    digest = hashlib.sha256()
    with Path(path).open("wb") as file:
        for line in _canonical_lines(rows):
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def compute_canonical_sha256(rows: Sequence[Row]) -> str:
    """Return the sha256 `write_canonical` would."""
    digest = hashlib.sha256()
    for line in _canonical_lines(rows):
        digest.update(line)
    return digest.hexdigest()


def _canonical_lines(rows: Sequence[Row]) -> Iterator[bytes]:
    messages, completion = CANONICAL_COLUMNS
    for row in rows:
        turns = [{"role": message.role, "content": message.content} for message in row.messages]
        record = {messages: turns, completion: row.completion, "number": row.number}
        record |= {"joint": row.joint} if row.joint else {}
        record |= {name: value for name, value in row.extra.items() if name not in record}
        yield json.dumps(record, allow_nan=False).encode() + b"\n"


def _line(problem: RowProblem) -> str:
    column = f"{problem.column}: " if problem.column else ""
    return f"row {problem.number}: {column}{problem.detail}"
