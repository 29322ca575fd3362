"""What every store of files does, and how it fails. tests/soul_store/test_blobs.py checks each store against this."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

CHUNK_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9_.@=+ -]+(/[A-Za-z0-9_.@=+ -]+)*")


class StorageFull(Exception):
    """The disk is full; nothing of the file was kept."""


class BlobStoreUnavailable(Exception):
    """The object store does not answer, or refuses the request; the same request may succeed later."""


class BlobStoreConfigError(ValueError):
    """The store's URL, bucket or credentials are wrong; the message names the remedy."""


class DamagedBlobError(Exception):
    """A blob's bytes do not have the sha256 that was stored with them."""


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
        """Copy or link a blob to a local path. Raises FileNotFoundError and DamagedBlobError; neither leaves a file."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; it can seek. Raises FileNotFoundError."""

    def get_size_bytes(self, key: str) -> int:
        """Return a blob's size. Raises FileNotFoundError."""

    def list_keys(self, prefix: str) -> list[str]:
        """List the keys below a prefix, in order."""

    def delete(self, key: str) -> None:
        """Remove a blob if it exists."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all blobs below a prefix."""

    def get_local_path(self, key: str) -> Path | None:
        """Return the blob's local path, to serve it without a copy. None if the store has no local files."""

    def get_remote_sha256(self, key: str) -> str | None:
        """Return the sha256 of a blob that `fetch` has to transfer, so that a cache can save that. None if it links.

        Raises FileNotFoundError.
        """

    def make_download_url(self, key: str, *, seconds: int) -> str | None:
        """Return a URL that reads the blob for so long without credentials. None if the store has no such URLs."""

    def make_upload_url(self, key: str, *, seconds: int) -> str | None:
        """Return a URL to which a client may PUT the blob for so long. None if the store has no such URLs."""

    def check(self) -> None:
        """Write, read and remove a small blob. Raises BlobStoreConfigError and BlobStoreUnavailable."""


def check_key(key: str) -> None:
    """Raise ValueError unless this is a relative path without `..`."""
    if not _KEY.fullmatch(key) or any(part in {".", ".."} for part in key.split("/")):
        msg = f"not a blob key: {key!r}; a key is a relative path without .."
        raise ValueError(msg)
