"""Files to rows: reads records, finds their columns, cleans the rows and collects problems and warnings. Torch-free."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.data.canonical import compute_canonical_sha256
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
from soul_core.data.formats import CHUNK_CHARS, Format, read_records
from soul_core.data.names import ACCEPTED_NAMES, CANONICAL_PREFIX
from soul_core.data.records import RawRow, RowProblem
from soul_core.errors import BadData


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The content of a file: the usable rows, and the problems of all others."""

    rows: tuple[Row, ...]
    problems: tuple[RowProblem, ...]
    format: Format
    columns: tuple[str, ...]  # of the file, in order
    used_columns: tuple[str, ...]  # those that prompt and completion were read from
    warnings: tuple[RowWarning, ...] = ()

    def require_valid_rows(self) -> tuple[Row, ...]:
        """Return the rows.

        Raises:
            BadData: some rows have problems; the details list all of them.
        """
        if self.problems:
            numbers = {problem.number for problem in self.problems}
            raise BadData(
                f"{len(numbers)} of {len(self.rows) + len(numbers)} rows cannot be used",
                details=tuple(_format_problem(problem) for problem in self.problems),
            )
        return self.rows


@dataclass(frozen=True, slots=True)
class Validation:
    """The summary of an uploaded data set that its user sees."""

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
    format: Format | None = None,  # noqa: A002  the name in the API
    mapping: Mapping[str, str] | None = None,
    name: str | None = None,
    clean: bool = True,
    normalize: bool = False,
    max_expanded_bytes: int = MAX_EXPANDED_BYTES,
    chunk_chars: int = CHUNK_CHARS,
) -> ReadResult:
    """Read a data set, plain or compressed. Unusable rows are listed in the result, not raised.

    Args:
        format: the file's format; by default the one that `name` implies, else the one of the content.
        mapping: accepted column name -> column of the file; `a+b` joins two columns with a blank line.
        name: the user's file name; by default that of `path`.
        clean: remove white space and end-of-turn tokens around prompts and answers. A file of `write_canonical` is
            never cleaned again.
        normalize: rewrite all texts in Unicode normal form C with plain spaces.
        max_expanded_bytes: largest accepted size after decompression.
        chunk_chars: approximate length of the passages into which plain text is cut.

    Raises:
        BadData: nothing can be read, because the file is empty, damaged, too large, not UTF-8 or has no usable columns.
    """
    path = Path(path)
    file_format, stream = read_records(
        path, format=format, name=name or path.name, max_expanded_bytes=max_expanded_bytes, chunk_chars=chunk_chars
    )
    items = list(stream)
    records = [item for item in items if isinstance(item, RawRow)]
    problems = [item for item in items if isinstance(item, RowProblem)]
    columns = list_columns(records)
    if not records:
        if not problems:
            raise BadData("the data set is empty: it has no rows")
        return ReadResult((), tuple(problems), file_format, columns, ())
    is_canonical = all(tuple(record.values)[:3] == CANONICAL_PREFIX for record in records)
    names_are_content = file_format == "csv"
    sources = _find_sources(columns, mapping, names_are_content=names_are_content)
    if sources:
        records = rename_columns(records, sources)
    column_set = choose_column_set(records, names_are_content=names_are_content)
    rows: list[Row] = []
    for record in records:
        row = to_row(record, column_set)
        if isinstance(row, Row):
            rows.append(row)
        else:
            problems += row
    problems.sort(key=lambda problem: problem.number)
    used_names = list_used_columns(column_set, list_columns(records))
    used_columns = tuple(column for name in used_names for column in sources.get(name, (name,)))
    warnings: list[RowWarning] = []
    if not is_canonical:
        mapped_columns = [column for parts in sources.values() for column in parts]
        warnings += find_file_warnings(records, columns, [*used_columns, *mapped_columns])
    rows, row_warnings = _prepare(rows, clean=clean and not is_canonical, normalize=normalize)
    return ReadResult(tuple(rows), tuple(problems), file_format, columns, used_columns, (*warnings, *row_warnings))


def _find_sources(
    columns: Sequence[str], mapping: Mapping[str, str] | None, *, names_are_content: bool
) -> dict[str, tuple[str, ...]]:
    """Return accepted name -> the file's columns: those of the mapping, else those that differ only in case."""
    sources = resolve_columns(mapping, columns, names_are_content=names_are_content) if mapping else {}
    if not sources and not ACCEPTED_NAMES & set(columns):
        sources = match_ignoring_case(columns)
    return sources


def _prepare(rows: Sequence[Row], *, clean: bool, normalize: bool) -> tuple[list[Row], list[RowWarning]]:
    """Return the rows as they are used, and the warnings about them."""
    rows_by_kind: defaultdict[str, list[int]] = defaultdict(list)
    normalized: list[int] = []
    prepared = []
    for row in rows:
        normal = normalize_row(row) if normalize else row
        if normal != row:
            normalized.append(row.number)
        cleaned, kinds = clean_row(normal)
        for kind in kinds:
            rows_by_kind[kind].append(row.number)
        prepared.append(cleaned if clean else normal)
    return prepared, [
        *make_cleaning_warnings(rows_by_kind, cleaned=clean),
        *find_row_warnings(prepared, normalized=normalized),
    ]


def validate_rows(read_result: ReadResult) -> Validation:
    """Summarize the content of a file."""
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


def _format_problem(problem: RowProblem) -> str:
    column = f"{problem.column}: " if problem.column else ""
    return f"row {problem.number}: {column}{problem.detail}"
