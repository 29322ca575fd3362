"""A running job's state in the store of files, so that a worker on another machine resumes it (decision 33).

`runs/{job}/{epoch}/files/{sha256}` are the files of the state folder, and `runs/{job}/{epoch}/manifest.json`, written
last, names them. Each attempt writes below its own epoch, so an attempt that lost its job cannot damage the next one's.
"""

import contextvars
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from soul_core.atomic_io import compute_sha256
from soul_store.blobs import BlobStore, DamagedBlobError

log = structlog.stdlib.get_logger(__name__)

RUNS = "runs"
_MANIFEST = "manifest.json"
#: Names in a state folder that are not part of a resumable state.
_PARTIAL, _LOCK = ".partial", "lock"
#: Pause between two looks at the state folder. An upload that takes longer delays the next look.
_PAUSE_SECONDS = 1.0

#: What tells two versions of a file apart: checkpoints are written again and renamed, never changed in place.
_Version = tuple[int, int, int]


class RunCheckpoints:
    """Copies of one job's state folder in the store."""

    def __init__(self, blobs: BlobStore, state: Path, job_id: str, epoch: int) -> None:
        self._blobs, self._state = blobs, state
        self._run = f"{RUNS}/{job_id}"
        self._prefix = f"{self._run}/{epoch}"
        self._uploaded: dict[str, _Version] = {}
        self._sha256: dict[_Version, str] = {}
        self._stopped = threading.Event()

    def restore(self) -> bool:
        """Fetch the newest complete copy if this machine has no state of the job. Return whether there was one."""
        if self._state.exists() and any(self._state.iterdir()):
            return False
        stored = [key for key in self._blobs.list_keys(self._run) if key.endswith(f"/{_MANIFEST}")]
        for manifest in sorted(stored, key=lambda key: int(key.split("/")[2]), reverse=True):
            try:
                self._fetch(manifest)
            except (FileNotFoundError, DamagedBlobError) as error:
                log.warning("a stored checkpoint cannot be used", manifest=manifest, error=str(error))
            else:
                log.info("restored the stored checkpoint", manifest=manifest)
                return True
        return False

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Upload the state in the background whenever it changes, until the block ends."""
        run = contextvars.copy_context().run
        thread = threading.Thread(target=run, args=(self._upload_repeatedly,), name="checkpoints", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def upload(self) -> None:
        """Copy the state to the store, the manifest last, if it differs from the last copy."""
        versions = self._list_versions()
        if not versions or versions == self._uploaded:
            return
        with tempfile.TemporaryDirectory(dir=self._state.parent, prefix="uploading-") as folder:
            if not self._link_files(Path(folder), versions):
                return  # the engine replaced a checkpoint meanwhile: the next look sees the new one
            digests = {name: self._put(Path(folder) / name, version) for name, version in versions.items()}
            manifest = Path(folder) / f"{_MANIFEST}.new"
            manifest.write_text(json.dumps({"files": digests}))
            self._blobs.put_file(f"{self._prefix}/{_MANIFEST}", manifest)
        self._uploaded = versions
        self._remove_older(set(digests.values()))

    def discard(self) -> None:
        """Remove all copies of the job's state."""
        self._blobs.delete_prefix(self._run)

    def try_upload(self) -> None:
        """Upload once; a job whose checkpoint cannot be stored still runs on, and may have to start again elsewhere."""
        try:
            self.upload()
        except Exception as error:
            log.warning("the checkpoint was not stored; trying again", error=str(error))

    def _upload_repeatedly(self) -> None:
        while not self._stopped.wait(_PAUSE_SECONDS):
            self.try_upload()

    def _list_versions(self) -> dict[str, _Version]:
        """Return the complete files of the state folder, which the engine changes meanwhile."""
        versions: dict[str, _Version] = {}
        # not rglob, which fails on a folder that is removed meanwhile
        for path in (Path(folder, name) for folder, _, names in os.walk(self._state) for name in names):
            name = path.relative_to(self._state)
            if _LOCK in name.parts or any(part.endswith(_PARTIAL) for part in name.parts):
                continue
            try:
                if path.is_file():
                    status = path.stat()
                    versions[name.as_posix()] = (status.st_ino, status.st_mtime_ns, status.st_size)
            except FileNotFoundError:
                continue
        return versions

    def _link_files(self, folder: Path, versions: dict[str, _Version]) -> bool:
        """Hold the files by hard links. Return False if the folder changed meanwhile: half a checkpoint is none."""
        for name in versions:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(self._state / name)
            except FileNotFoundError:
                return False
        return self._list_versions() == versions

    def _put(self, path: Path, version: _Version) -> str:
        sha256 = self._sha256.get(version)
        if sha256 is None:
            sha256 = self._blobs.put_file(f"{self._prefix}/files/{compute_sha256(path)}", path).sha256
            self._sha256[version] = sha256
        return sha256

    def _remove_older(self, named_sha256: set[str]) -> None:
        """Remove what the manifest does not name: earlier checkpoints, and the copies of earlier attempts."""
        self._sha256 = {version: sha256 for version, sha256 in self._sha256.items() if sha256 in named_sha256}
        current = {f"{self._prefix}/{_MANIFEST}"} | {f"{self._prefix}/files/{sha256}" for sha256 in named_sha256}
        for key in set(self._blobs.list_keys(self._run)) - current:
            self._blobs.delete(key)

    def _fetch(self, manifest: str) -> None:
        with self._blobs.open(manifest) as content:
            files: dict[str, str] = json.load(content)["files"]
        prefix = manifest.removesuffix(f"/{_MANIFEST}")
        with tempfile.TemporaryDirectory(dir=self._state.parent, prefix="restoring-") as folder:
            for name, sha256 in files.items():
                path = Path(folder) / "state" / name
                self._blobs.fetch(f"{prefix}/files/{sha256}", path)
                if compute_sha256(path) != sha256:
                    msg = f"{name} of {manifest} does not have its sha256"
                    raise DamagedBlobError(msg)
            shutil.rmtree(self._state, ignore_errors=True)
            (Path(folder) / "state").rename(self._state)
