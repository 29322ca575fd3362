"""Writes files that survive a crash: to a temporary file, flushed to disk, then renamed; and reports a full disk."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soul_core.errors import DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def translate_disk_errors(description: str) -> Iterator[None]:
    """Convert every sign of a full disk to DiskFull; libraries in other languages report it only in their message."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        text = str(error)
        if full or "No space left on device" in text or "(os error 28)" in text or "Disk quota exceeded" in text:
            raise DiskFull(
                f"no space left on the disk while writing {description}; free some space and run again"
            ) from error
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a complete file or nothing: after a crash the path has the old content or all of the new."""
    temporary = path.with_name(path.name + ".partial")
    with translate_disk_errors(path.name):
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_path(path.parent)


def load_or_make_json(path: Path, description: str, make: Callable[[], Any]) -> Any:
    """Return the stored JSON, or what `make` returns, which is stored first: a resumed run must not make it again.

    Args:
        description: What an error about a full disk names.
    """
    if path.exists():
        return json.loads(path.read_text())
    content = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with translate_disk_errors(description):
        write_atomically(path, json.dumps(content, ensure_ascii=False))
    return content


def fsync_path(path: Path) -> None:
    """Flush one file or folder entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def compute_sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
