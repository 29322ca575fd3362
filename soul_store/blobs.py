"""The store of files. A key is a relative path such as `jobs/job_…/3/checkpoint/model.safetensors`."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from soul_store.settings import get_settings

CHUNK_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9_.@=+ -]+(/[A-Za-z0-9_.@=+ -]+)*")


class StorageFull(Exception):
    """The disk is full; nothing of the file was kept."""


@dataclass(frozen=True)
class StoredBlob:
    """A file as it was stored."""

    key: str
    size_bytes: int
    sha256: str


class BlobStore(Protocol):
    """A store of files. A key shows a complete file or none."""

    def put_file(self, key: str, path: Path) -> StoredBlob:
        """Store a local file, by a hard link where that is possible: the file must not change afterwards.

        Raises StorageFull.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Copy or link a blob to a local path."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; it can seek. Raises FileNotFoundError."""

    def get_size_bytes(self, key: str) -> int:
        """Return a blob's size. Raises FileNotFoundError."""

    def list_keys(self, prefix: str) -> list[str]:
        """List the keys below a prefix."""

    def delete(self, key: str) -> None:
        """Remove a blob if it exists."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all blobs below a prefix."""

    def get_local_path(self, key: str) -> Path | None:
        """Return the blob's local path, to serve it without a copy. None if the store has no local files."""


class LocalBlobStore:
    """Blobs in a local folder: written to a temporary file, synced, then renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unfinished = root / ".unfinished"

    def put_file(self, key: str, path: Path) -> StoredBlob:
        with path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        with self._write_atomically(key) as temporary:
            try:
                os.link(path, temporary)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                shutil.copyfile(path, temporary)  # another file system
            with temporary.open("rb") as copy:
                os.fsync(copy.fileno())
        return StoredBlob(key, path.stat().st_size, sha256)

    def fetch(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(self._path(key), path)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            shutil.copyfile(self._path(key), path)

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def get_size_bytes(self, key: str) -> int:
        return self._path(key).stat().st_size

    def list_keys(self, prefix: str) -> list[str]:
        folder = self._path(prefix)
        return sorted(str(path.relative_to(self.root)) for path in folder.rglob("*") if path.is_file())

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        shutil.rmtree(self._path(prefix), ignore_errors=True)

    def get_local_path(self, key: str) -> Path | None:
        return self._path(key)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key) or any(part in {".", ".."} for part in key.split("/")):
            msg = f"not a blob key: {key!r}; a key is a relative path without .."
            raise ValueError(msg)
        return self.root / key

    @contextmanager
    def _write_atomically(self, key: str) -> Iterator[Path]:
        """Yield a temporary path; move it to the key's place if the block succeeds, remove it if the block raises."""
        target = self._path(key)
        self._unfinished.mkdir(parents=True, exist_ok=True)
        temporary = self._unfinished / uuid4().hex
        try:
            yield temporary
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                msg = f"the disk is full: {key} was not stored"
                raise StorageFull(msg) from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@cache
def _make_local_store(url: str) -> LocalBlobStore:
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        msg = f"SOUL_BLOBS_URL is {url!r}; set it to file:///absolute/folder"
        raise ValueError(msg)
    return LocalBlobStore(Path(unquote(parts.path)))


def get_blob_store() -> BlobStore:
    """Return the configured store of files."""
    return _make_local_store(get_settings().blobs_url)
