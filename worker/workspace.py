"""One job's scratch folder: inputs fetched, state kept between attempts, outputs published, all wiped at the end."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from soul_core.outputs.layout import MANIFEST
from soul_core.spec import FORGET, GENERAL, HOLDOUT, RETAIN, TRAIN
from soul_store.blobs import BlobStore
from soul_store.job_leases import NewArtifact
from soul_store.tables import Artifact, Dataset, Job, Model


class WorkspaceBusy(Exception):
    """An earlier attempt of the job still holds the folder."""


@dataclass(frozen=True)
class JobInputs:
    """What a job's row names: the rows of its model and of others beside it, of its data sets, of a reference's log;
    and the tenant's key of row digests.
    """

    model: Model
    models: Mapping[str, Model]
    datasets: Mapping[str, Dataset]
    retrained_log: Artifact | None
    row_key: str


class Workspace:
    """`scratch/{job}/`: `inputs/`, `state/` (what a resumed run reads), `out/` (what the engine made)."""

    def __init__(self, scratch: Path, job_id: str) -> None:
        self.scratch = scratch
        self.folder = scratch / job_id
        self.inputs = self.folder / "inputs"
        self.state = self.folder / "state"
        self.out = self.folder / "out"
        self.cache = scratch / "models"  # converted GGUF files and hub downloads, shared by all jobs

    @contextmanager
    def lock(self, *, timeout_seconds: float) -> Iterator[None]:
        """Hold the folder against another attempt of the same job. Raises Busy when that one does not leave."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout_seconds
        with (self.scratch / f"{self.folder.name}.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise WorkspaceBusy from None
                    time.sleep(0.1)
            yield

    def fetch_inputs(self, blobs: BlobStore, job: Job, job_inputs: JobInputs) -> list[str]:
        """Bring everything the engine reads; return its arguments."""
        shutil.rmtree(self.inputs, ignore_errors=True)
        self.inputs.mkdir(parents=True)
        spec = self.inputs / "spec.json"
        spec.write_text(json.dumps(job.spec))
        arguments = [str(spec), "--job-id", job.id, "--out", str(self.out), "--state", str(self.state)]
        arguments += ["--cache", str(self.cache), "--model-name", job_inputs.model.name]
        arguments += ["--model", self._fetch_model(blobs, job_inputs.model, "model")]
        if job_inputs.model.revision is not None:
            arguments += ["--revision", job_inputs.model.revision]
        if job_inputs.model.digest is not None:
            arguments += ["--model-digest", job_inputs.model.digest]
        for name, model in job_inputs.models.items():
            revision = f"@{model.revision}" if model.revision is not None else ""
            arguments += ["--compare", f"{name}={self._fetch_model(blobs, model, f'models/{name}')}{revision}"]
            if model.digest is not None:
                arguments += ["--compare-digest", f"{name}={model.digest}"]
        if job_inputs.retrained_log is not None:
            log = job_inputs.retrained_log
            path = self.inputs / f"{log.job_id}-{PurePosixPath(log.path).name}"  # the report names it so
            blobs.fetch(log.blob, path)
            arguments += ["--retrained-log", str(path), "--retrained-log-sha256", log.sha256]
        for name, dataset in job_inputs.datasets.items():
            assert dataset.blob is not None
            path = self.inputs / f"{name}.jsonl"
            blobs.fetch(dataset.blob, path)
            if name in {FORGET, RETAIN, GENERAL, TRAIN, HOLDOUT}:
                arguments += [f"--{name}", str(path)]
            else:
                arguments += ["--dataset", f"{name}={path}"]
            if dataset.content_sha256 is not None:
                arguments += ["--dataset-sha256", f"{name}={dataset.content_sha256}"]
        return [*arguments, "--row-key", str(self._write_key(job_inputs.row_key))]

    def publish(self, blobs: BlobStore, job: Job) -> list[NewArtifact]:
        """Store what the engine made under this epoch's own prefix, the manifest last."""
        listed = [entry["path"] for entry in json.loads((self.out / MANIFEST).read_text())["files"]]
        artifacts = []
        for path in [*listed, MANIFEST]:
            stored = blobs.put_file(f"{self.get_blob_prefix(job)}/{path}", self.out / path)
            artifacts.append(NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
        return artifacts

    def withdraw(self, blobs: BlobStore, job: Job) -> None:
        """Remove what `publish` stored, when the job's end could not be written."""
        blobs.delete_prefix(self.get_blob_prefix(job))

    def wipe(self) -> None:
        """Remove the folder: inputs are somebody's data."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.scratch / f"{self.folder.name}.lock").unlink(missing_ok=True)

    @staticmethod
    def get_blob_prefix(job: Job) -> str:
        return f"jobs/{job.id}/{job.epoch}"

    def _write_key(self, key: str) -> Path:
        """Write the key where only this worker reads it; an argument could be seen by everybody on the machine."""
        path = self.inputs / "row-digests.key"
        path.touch(mode=0o600)
        path.write_text(key)
        return path

    def _fetch_model(self, blobs: BlobStore, model: Model, place: str) -> str:
        if model.source != "job":
            return model.location
        folder = self.inputs / place
        for key in blobs.list_keys(model.location):
            blobs.fetch(key, folder / key.removeprefix(f"{model.location}/"))
        return str(folder)
