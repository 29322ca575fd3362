"""Writes files that survive a crash: to a temporary file, flushed to disk, then renamed; and reports a full disk."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
