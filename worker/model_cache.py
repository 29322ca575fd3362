"""Models fetched from a bucket, kept on the worker's disk by digest, so that the next job does not fetch them again."""

import os
import shutil
from pathlib import Path

import structlog

from soul_core.atomic_io import compute_sha256
from soul_store.blobs import BlobStore

log = structlog.stdlib.get_logger(__name__)


class ModelCache:
    """Files named by their sha256, at most `max_bytes` in all; the least recently used are removed first."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def fetch(self, blobs: BlobStore, key: str, path: Path) -> None:
        """Put a blob at `path`, from the cache if it is there. Raises as `BlobStore.fetch`."""
        sha256 = blobs.get_remote_sha256(key) if self._max_bytes else None
        if sha256 is None:
            blobs.fetch(key, path)
            return
        cached = self._folder / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._take(cached, sha256, path):
            blobs.fetch(key, path)
            self._keep(path, cached)

    def _take(self, cached: Path, sha256: str, path: Path) -> bool:
        """Link a cached file, unless it is missing or its bytes changed on the disk."""
        try:
            if compute_sha256(cached) != sha256:
                log.warning("a cached model file is damaged and is fetched again", sha256=sha256)
                cached.unlink()
                return False
            path.unlink(missing_ok=True)
            _link_or_copy(cached, path)
            os.utime(cached)  # when it was last used
        except FileNotFoundError:  # or another worker of this machine removed it meanwhile
            return False
        return True

    def _keep(self, path: Path, cached: Path) -> None:
        size = path.stat().st_size
        if size > self._max_bytes:
            return
        self._make_room(size)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = cached.with_name(f"{cached.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        _link_or_copy(path, partial)
        partial.replace(cached)

    def _make_room(self, size: int) -> None:
        files = [(status.st_mtime, status.st_size, file) for file, status in self._list_files()]
        total = size + sum(file_size for _, file_size, _ in files)
        for _, file_size, file in sorted(files):
            if total <= self._max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= file_size

    def _list_files(self) -> list[tuple[Path, os.stat_result]]:
        listed = []
        for file in self._folder.glob("*"):
            try:
                listed.append((file, file.stat()))
            except FileNotFoundError:
                continue
        return listed


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
