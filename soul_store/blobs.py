"""Where files lie. A key is a relative path such as `jobs/job_…/3/checkpoint/model.safetensors`."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
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
    """There is no room for the file; nothing of it was kept."""


class BlobTooLarge(Exception):
    """A stream went on past its limit; nothing of it was kept."""


@dataclass(frozen=True)
class StoredBlob:
    """What was stored under a key."""

    key: str
    size_bytes: int
    sha256: str


class BlobStore(Protocol):
    """A store of whole files: a key shows either nothing or all of a file."""

    def put_stream(self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None = None) -> StoredBlob:
        """Store a stream. Raises TooLarge, StorageFull."""

    def put_file(self, key: str, path: Path) -> StoredBlob:
        """Store a local file (hard-linked where that is possible: it must not change any more)."""

    def fetch(self, key: str, path: Path) -> None:
        """Bring a blob to a local path."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; it can seek. Raises FileNotFoundError."""

    def get_size_bytes(self, key: str) -> int:
        """Return a blob's size. Raises FileNotFoundError."""

    def list_keys(self, prefix: str) -> list[str]:
        """List the keys below a prefix."""

    def delete(self, key: str) -> None:
        """Remove a blob; a missing one is fine."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all blobs below a prefix."""

    def get_local_path(self, key: str) -> Path | None:
        """Return the blob as a local path where there is one, to be served without a copy."""


class LocalBlobStore:
    """Blobs in a local folder: written beside, synced, renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unfinished = root / ".unfinished"

    def put_stream(self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None = None) -> StoredBlob:
        digest, size = hashlib.sha256(), 0
        with self._placed(key) as beside, beside.open("wb") as out:
            for chunk in chunks:
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    msg = f"larger than {max_bytes} bytes"
                    raise BlobTooLarge(msg)
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        return StoredBlob(key, size, digest.hexdigest())

    def put_file(self, key: str, path: Path) -> StoredBlob:
        with path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        with self._placed(key) as beside:
            try:
                os.link(path, beside)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                shutil.copyfile(path, beside)  # another file system
            with beside.open("rb") as placed:
                os.fsync(placed.fileno())
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
            msg = f"not a blob key: {key!r}"
            raise ValueError(msg)
        return self.root / key

    @contextmanager
    def _placed(self, key: str) -> Iterator[Path]:
        """Yield a path to write; rename it to its place when the block ends well, remove it when not."""
        place = self._path(key)
        self._unfinished.mkdir(parents=True, exist_ok=True)
        beside = self._unfinished / uuid4().hex
        try:
            yield beside
            place.parent.mkdir(parents=True, exist_ok=True)
            beside.replace(place)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                msg = f"no room for {key}"
                raise StorageFull(msg) from error
            raise
        finally:
            beside.unlink(missing_ok=True)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@cache
def _local(url: str) -> LocalBlobStore:
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        msg = f"SOUL_BLOBS_URL must be file:///absolute/folder, not {url!r}"
        raise ValueError(msg)
    return LocalBlobStore(Path(unquote(parts.path)))


def get_blob_store() -> BlobStore:
    """Return the configured store of files."""
    return _local(get_settings().blobs_url)
