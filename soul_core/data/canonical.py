"""Rows as canonical JSON lines, which the engine reads without cleaning them again. Torch-free."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from soul_core.data.columns import Row
from soul_core.data.names import CANONICAL_COLUMNS


def write_canonical(rows: Sequence[Row], path: Path | str) -> str:
    """Write rows as canonical JSON lines with their original row numbers; return the sha256 of the file."""
    digest = hashlib.sha256()
    with Path(path).open("wb") as file:
        for line in _canonical_lines(rows):
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def compute_canonical_sha256(rows: Sequence[Row]) -> str:
    """Return the sha256 that `write_canonical` returns."""
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
