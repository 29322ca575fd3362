"""Files that survive a crash: written beside, flushed to disk, renamed. A full disk is one error with one name."""

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
    """Turn any sign of a full disk into DiskFull: writers in other languages only say it in their message."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        text = str(error)
        if full or "No space left on device" in text or "(os error 28)" in text or "Disk quota exceeded" in text:
            raise DiskFull(f"no space left on the disk while writing {description}; free some and run again") from error
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: after a crash the path holds the old content or all of the new."""
    beside = path.with_name(path.name + ".partial")
    with translate_disk_errors(path.name):
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Flush one file or folder entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def compute_sha256(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
