"""Blobs in a local folder."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from soul_store.blobs.contract import BlobStoreConfigError, StorageFull, StoredBlob, check_key


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

    def get_remote_sha256(self, key: str) -> str | None:
        return None

    def make_download_url(self, key: str, *, seconds: int) -> str | None:
        return None

    def make_upload_url(self, key: str, *, seconds: int) -> str | None:
        return None

    def check(self) -> None:
        try:
            self._unfinished.mkdir(parents=True, exist_ok=True)
            probe = self._unfinished / uuid4().hex
            probe.touch()
            probe.unlink()
        except OSError as error:
            msg = (
                f"no file can be written below {self.root} ({error.strerror}): make the folder, or allow writing to it"
            )
            raise BlobStoreConfigError(msg) from error

    def _path(self, key: str) -> Path:
        check_key(key)
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
