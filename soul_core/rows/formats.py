"""Files to records: compression, format, encoding. What a record means is `columns`' business. Torch-free.

Nothing here quotes a file's content in a message: forget sets are personal data.
"""

import csv
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from soul_core.errors import BadData
from soul_core.rows.compression import Expanded

Format = Literal["jsonl", "csv", "parquet", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
_PARQUET = b"PAR1"
CHUNK_CHARS = 2000


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why one row cannot be used. `detail` never holds the row's content."""

    number: int
    column: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line or record of a file, before anybody asked what its columns mean."""

    number: int
    values: dict[str, Any]


def format_of(name: str) -> Format | None:
    """Return the format a file name promises, compression suffixes aside."""
    path = Path(name.lower())
    if path.suffix in {".gz", ".zst"}:
        path = path.with_suffix("")
    return _SUFFIXES.get(path.suffix)


def read_records(
    path: Path,
    *,
    format: Format | None,  # noqa: A002  the word of the API
    name: str,
    max_expanded_bytes: int,
    chunk_chars: int,
) -> tuple[Format, Iterator[Record | RowProblem]]:
    """Return the file's format and its records, bad lines among them as problems. Raises BadData, perhaps late."""
    if path.stat().st_size == 0:
        raise BadData("the data set is empty (0 bytes)")
    stream = Expanded(path, max_expanded_bytes)
    try:
        found = _settle(stream.peek(4096), format or format_of(name))
    except BaseException:
        stream.close()
        raise
    if found == "parquet":
        return found, _parquet(path, stream, max_expanded_bytes)
    lines = _utf8_lines(stream)
    if found == "jsonl":
        return found, _jsonl(lines)
    if found == "csv":
        return found, _csv(lines)
    return found, _text(lines, chunk_chars)


def _settle(head: bytes, said: Format | None) -> Format:
    """Return the format, `said` or found in the file's first bytes. Raises BadData where the two cannot both be."""
    found = said or _format_by_content(head)
    if (found == "parquet") != head.startswith(_PARQUET):
        fault = "is not Parquet" if found == "parquet" else f"is Parquet, not {found}"
        raise BadData(f"the content of the file {fault}")
    if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise BadData("the file is UTF-16; save it as UTF-8")
    return found


def _format_by_content(head: bytes) -> Format:
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if head.startswith(_PARQUET):
        return "parquet"
    if re.match(r"\{|\[\s*\{", text):  # not a bare "[": a book may begin with an [Illustration]
        return "jsonl"
    header = text.split("\n", 1)[0]
    names = {cell.strip().strip('"').lower() for cell in header.replace(";", ",").replace("\t", ",").split(",")}
    return "csv" if names & {"prompt", "completion", "question", "answer", "messages", "text"} else "text"


def _utf8_lines(stream: Expanded) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end). Raises BadData at the first byte that is not UTF-8."""
    offset = 0
    with io.BufferedReader(stream, 1 << 20) as binary:
        for number, raw in enumerate(binary, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadData(
                    f"the file is not UTF-8: byte {offset + error.start:,} (line {number:,}); save it as UTF-8"
                ) from error
            offset += len(raw)
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).removesuffix("\n").removesuffix("\r")


def _jsonl(lines: Iterator[tuple[int, str]]) -> Iterator[Record | RowProblem]:
    for number, line in lines:
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise BadData("the file is one JSON array; write one object a line (jq -c '.[]' does that)")
        try:
            values = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            yield RowProblem(number, None, f"not JSON: {error.msg} at character {error.colno}")
        except (ValueError, RecursionError) as error:
            detail = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            yield RowProblem(number, None, f"not JSON: {detail}")
        else:
            if isinstance(values, dict):
                yield Record(number, values)
            else:
                yield RowProblem(number, None, "not a JSON object")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _csv(lines: Iterator[tuple[int, str]]) -> Iterator[Record | RowProblem]:
    """Yield records numbered by the line they begin on; the header is line 1."""
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is shorter than a chapter; the caps above bound it
    first = next(lines, None)
    if first is None:
        return
    delimiter = max(",;\t", key=first[1].count)
    source = _Counted(first, lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() or f"column_{i}" for i, cell in enumerate(next(reader), start=1)]
    except csv.Error as error:
        raise BadData(f"the CSV header cannot be read: {error}") from error
    if len(set(header)) < len(header):
        raise BadData("two columns of the CSV header have the same name", details=tuple(header))
    while True:
        begins = source.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield RowProblem(begins, None, f"not CSV: {error}")
            continue
        if cells is None:
            return
        if len(cells) == len(header):
            yield Record(begins, dict(zip(header, cells, strict=True)))
        elif cells:
            yield RowProblem(begins, None, f"{len(cells)} fields where the header has {len(header)}")


class _Counted:
    """Lines for csv.reader, and the number of the last one it took (a quoted field may span several)."""

    def __init__(self, first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> None:
        self._first: tuple[int, str] | None = first
        self._rest = rest
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        first, self._first = self._first, None
        self.number, line = first or next(self._rest)
        return line + "\n"


def _text(lines: Iterator[tuple[int, str]], chunk_chars: int) -> Iterator[Record]:
    """Yield passages of whole paragraphs of about `chunk_chars`; a longer paragraph is cut between words."""
    passage = ""
    number = 0
    for paragraph in _paragraphs(lines):
        for piece in _pieces(paragraph, chunk_chars):
            if passage and len(passage) + len(piece) > chunk_chars:
                number += 1
                yield Record(number, {"text": passage})
                passage = ""
            passage += ("\n\n" if passage else "") + piece
    if passage:
        yield Record(number + 1, {"text": passage})


def _paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    held: list[str] = []
    for _, line in lines:
        if line.strip():
            held.append(line.rstrip())
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def _pieces(paragraph: str, chunk_chars: int) -> Iterator[str]:
    while len(paragraph) > chunk_chars:
        cut = max(paragraph.rfind(mark, 1, chunk_chars) for mark in (" ", "\n"))
        cut = cut if cut > 0 else chunk_chars
        yield paragraph[:cut].rstrip()
        paragraph = paragraph[cut:].lstrip()
    if paragraph:
        yield paragraph


def _parquet(path: Path, stream: Expanded, max_expanded_bytes: int) -> Iterator[Record]:
    import pyarrow as pa  # 0.1 s that the other formats need not pay
    from pyarrow import parquet

    with stream, tempfile.TemporaryFile() as spool:
        file: IO[bytes] | Path = path
        if not stream.plain:
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            file = spool
        try:
            with parquet.ParquetFile(file) as table:
                total, number = 0, 0
                for batch in table.iter_batches(batch_size=128):
                    total += batch.nbytes
                    if total > max_expanded_bytes:
                        raise BadData(f"the data set is larger than {max_expanded_bytes:,} bytes when expanded")
                    for values in batch.to_pylist():
                        number += 1
                        yield Record(number, values)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BadData(f"the Parquet file cannot be read ({type(error).__name__}); is it whole?") from error
