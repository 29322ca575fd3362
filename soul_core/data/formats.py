"""Files to records: compression, format, character encoding. `columns` interprets the records. Torch-free.

No message here quotes a file's content, because forget sets are personal data.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, get_args

from soul_core.data.compression import DecompressedStream
from soul_core.data.csv_records import read_csv_records
from soul_core.data.json_records import read_json_records
from soul_core.data.names import ACCEPTED_NAMES
from soul_core.data.records import RawRow, RowProblem
from soul_core.errors import BadData

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


#: First bytes of files that users send by mistake, and the remedy.
_OTHER_FILES = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive; export the sheet as CSV, or unpack the archive"),
    (b"BZh", "compressed with bzip2; use gzip or zstd"),
    (b"\xfd7zXZ", "compressed with xz; use gzip or zstd"),
    (b"ARROW1", "an Arrow (Feather) file; write Parquet"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"%PDF", "a PDF; export its text"),
    (b"\x80\x04\x95", "a Python pickle; write JSON lines or Parquet"),
)


def guess_format(name: str) -> Format | None:
    """Return the format that a file name implies; suffixes of compression are ignored."""
    path = Path(name.lower())
    if path.suffix in {".gz", ".zst"}:
        path = path.with_suffix("")
    return _SUFFIXES.get(path.suffix)


def read_records(
    path: Path,
    *,
    format: Format | None,  # noqa: A002  the name in the API
    name: str,
    max_expanded_bytes: int,
    chunk_chars: int,
) -> tuple[Format, Iterator[RawRow | RowProblem]]:
    """Return the file's format and its records, with unreadable lines as problems.

    Raises:
        BadData: the file cannot be read; also raised while the records are iterated.
    """
    if path.stat().st_size == 0:
        raise BadData("the data set is empty (0 bytes)")
    stream = DecompressedStream(path, max_expanded_bytes)
    try:
        file_format = _determine_format(stream.peek(4096), format or guess_format(name))
    except BaseException:
        stream.close()
        raise
    if file_format == "parquet":
        return file_format, _parquet(path, stream, max_expanded_bytes)
    lines = _utf8_lines(stream)
    if file_format == "jsonl":
        return file_format, read_json_records(lines)
    if file_format == "csv":
        return file_format, read_csv_records(lines)
    return file_format, _text(lines, chunk_chars)


def _determine_format(head: bytes, stated_format: Format | None) -> Format:
    """Return the stated format, else the one of the file's first bytes. Raises BadData if the two contradict."""
    for magic, description in _OTHER_FILES:
        if head.startswith(magic):
            raise BadData(f"the file is {description}")
    file_format = stated_format or _format_by_content(head)
    if (file_format == "parquet") != head.startswith(_PARQUET):
        problem = "is not Parquet" if file_format == "parquet" else f"is Parquet, not {file_format}"
        raise BadData(f"the content of the file {problem}")
    if file_format != "parquet" and (head[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\0" in head):
        raise BadData("the file is UTF-16 (or not text, because it contains zero bytes); save it as UTF-8")
    return file_format


def _format_by_content(head: bytes) -> Format:
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if head.startswith(_PARQUET):
        return "parquet"
    if re.match(r"\{|\[\s*\{", text):  # not a bare "[": a book may begin with an [Illustration]
        return "jsonl"
    header = text.split("\n", 1)[0]
    if re.match(r'"?sep=.', header):
        return "csv"
    names = {cell.strip(' "\r').lower() for cell in re.split(r"[,;\t|\r]", header)}
    return "csv" if names & ACCEPTED_NAMES else "text"


def _utf8_lines(stream: DecompressedStream) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end). Raises BadData at the first byte that is not UTF-8."""
    offset = 0
    with io.BufferedReader(stream, 1 << 20) as binary:
        for number, raw in enumerate(_raw_lines(binary), start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadData(
                    f"the file is not UTF-8: byte {offset + error.start:,} (line {number:,}); save it as UTF-8"
                ) from error
            offset += len(raw)
            # a byte order mark begins a file, and each of several files that were joined
            yield number, line.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")


def _raw_lines(binary: "io.BufferedReader[DecompressedStream]") -> Iterator[bytes]:
    """Yield lines; if a file ends lines with CR alone, as old Macs did, split at CR."""
    head = binary.peek(1 << 16)[: 1 << 16]
    if b"\r" not in head or b"\n" in head:
        yield from binary
        return
    rest = b""
    while block := binary.read(1 << 16):
        *lines, rest = re.split(rb"(?<=\r)(?!\n)|(?<=\n)", rest + block)
        if rest == b"" and lines and lines[-1].endswith(b"\r"):
            rest = lines.pop()  # the next block may begin with its LF
        yield from lines
    if rest:
        yield rest


def _text(lines: Iterator[tuple[int, str]], chunk_chars: int) -> Iterator[RawRow]:
    """Yield passages of complete paragraphs, about `chunk_chars` long; a longer paragraph is cut between words."""
    passage = ""
    number = 0
    for paragraph in _paragraphs(lines):
        for piece in _pieces(paragraph, chunk_chars):
            if passage and len(passage) + len(piece) > chunk_chars:
                number += 1
                yield RawRow(number, {"text": passage})
                passage = ""
            passage += ("\n\n" if passage else "") + piece
    if passage:
        yield RawRow(number + 1, {"text": passage})


def _paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    paragraph: list[str] = []
    for _, line in lines:
        if line.strip():
            paragraph.append(line.rstrip())
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)


def _pieces(paragraph: str, chunk_chars: int) -> Iterator[str]:
    while len(paragraph) > chunk_chars:
        cut = max(paragraph.rfind(mark, 1, chunk_chars) for mark in (" ", "\n"))
        cut = cut if cut > 0 else chunk_chars
        yield paragraph[:cut].rstrip()
        paragraph = paragraph[cut:].lstrip()
    if paragraph:
        yield paragraph


#: A data set has at most this many rows and cells: a file of a kilobyte can claim billions.
MAX_ROWS, MAX_CELLS = 10_000_000, 100_000_000


def _check_parquet_size(metadata: Any, max_expanded_bytes: int) -> None:
    """Raise BadData for a file whose own metadata claims too much, before any of it is read."""
    num_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if metadata.num_rows > MAX_ROWS or metadata.num_rows * metadata.num_columns > MAX_CELLS:
        raise BadData(f"the data set has more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells; split it")
    if num_bytes > max_expanded_bytes:
        raise BadData(f"the data set is larger than {max_expanded_bytes:,} bytes when expanded")


def _parquet(path: Path, stream: DecompressedStream, max_expanded_bytes: int) -> Iterator[RawRow]:
    import pyarrow as pa  # takes 0.1 s, which the other formats do not need
    from pyarrow import parquet

    with stream, tempfile.TemporaryFile() as spool:
        file: IO[bytes] | Path = path
        if not stream.is_uncompressed:
            shutil.copyfileobj(stream, spool)
            spool.seek(0)
            file = spool
        try:
            with parquet.ParquetFile(file) as table:
                _check_parquet_size(table.metadata, max_expanded_bytes)
                total, number = 0, 0
                for batch in table.iter_batches(batch_size=128):
                    total += batch.nbytes
                    if total > max_expanded_bytes:
                        raise BadData(f"the data set is larger than {max_expanded_bytes:,} bytes when expanded")
                    for values in batch.to_pylist():
                        number += 1
                        yield RawRow(number, values)
        except pa.ArrowMemoryError as error:
            raise MemoryError from error
        except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError, OverflowError) as error:
            raise BadData(f"the Parquet file cannot be read ({type(error).__name__}); is it complete?") from error
