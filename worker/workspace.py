"""A job's scratch folder: fetched inputs, state kept between attempts, outputs until they are published."""

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
from worker.model_cache import ModelCache

_SPEC = "spec.json"


class WorkspaceBusy(Exception):
    """An earlier attempt of the job still holds the folder."""


@dataclass(frozen=True)
class JobInputs:
    """The rows that a job names: its model, compared models, data sets and the log of a retrained model; and the
    tenant's key of row digests.
    """

    model: Model
    models: Mapping[str, Model]
    datasets: Mapping[str, Dataset]
    retrained_log: Artifact | None
    row_key: str


class Workspace:
    """`scratch/{job}/`: `inputs/`, `state/` (read by a resumed run) and `out/` (written by the engine)."""

    def __init__(self, scratch: Path, job_id: str, *, model_cache_bytes: int = 0) -> None:
        self.scratch = scratch
        self.folder = scratch / job_id
        self.inputs = self.folder / "inputs"
        self.state = self.folder / "state"
        self.out = self.folder / "out"
        self.cache = scratch / "models"  # converted GGUF files and hub downloads, shared by all jobs
        self._fetched_models = ModelCache(scratch / "fetched-models", model_cache_bytes)

    @contextmanager
    def lock(self, *, timeout_seconds: float) -> Iterator[None]:
        """Lock the folder against other attempts of the job. Raises WorkspaceBusy if one holds it until the timeout."""
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
        """Fetch everything that the engine reads. Return the engine's arguments."""
        shutil.rmtree(self.inputs, ignore_errors=True)
        self.inputs.mkdir(parents=True)
        return [
            *self._write_job(job),
            *self._fetch_models(blobs, job_inputs),
            *self._fetch_retrained_log(blobs, job_inputs.retrained_log),
            *self._fetch_datasets(blobs, job_inputs.datasets),
            *("--row-key", str(self._write_key(job_inputs.row_key))),
        ]

    def list_text_files(self) -> list[Path]:
        """Return the fetched files that contain the user's texts: data sets and the log of a retrained model."""
        return [path for path in self.inputs.glob("*.json*") if path.name != _SPEC]

    def publish(self, blobs: BlobStore, job: Job) -> list[NewArtifact]:
        """Store the engine's outputs under the prefix of this epoch, the manifest last."""
        listed = [entry["path"] for entry in json.loads((self.out / MANIFEST).read_text())["files"]]
        artifacts = []
        for path in [*listed, MANIFEST]:
            stored = blobs.put_file(f"{self.get_blob_prefix(job)}/{path}", self.out / path)
            artifacts.append(NewArtifact(path, stored.key, stored.size_bytes, stored.sha256))
        return artifacts

    def withdraw(self, blobs: BlobStore, job: Job) -> None:
        """Remove what `publish` stored, if the job did not succeed after all."""
        blobs.delete_prefix(self.get_blob_prefix(job))

    def wipe(self) -> None:
        """Remove the folder, which contains the user's data."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.scratch / f"{self.folder.name}.lock").unlink(missing_ok=True)

    @staticmethod
    def get_blob_prefix(job: Job) -> str:
        return f"jobs/{job.id}/{job.epoch}"

    def _write_job(self, job: Job) -> list[str]:
        spec = self.inputs / _SPEC
        spec.write_text(json.dumps(job.spec))
        ids = ["--job-id", job.id, "--attempt", str(job.epoch)]
        if job.request_id is not None:
            ids += [f"--request-id={job.request_id}"]
        return [str(spec), *ids, "--out", str(self.out), "--state", str(self.state), "--cache", str(self.cache)]

    def _fetch_models(self, blobs: BlobStore, job_inputs: JobInputs) -> list[str]:
        # joined by "=": a name that begins with a dash would be read as an option of its own
        arguments = [f"--model-name={job_inputs.model.name}"]
        arguments += [f"--model={self._fetch_model(blobs, job_inputs.model, 'model')}"]
        if job_inputs.model.revision is not None:
            arguments += [f"--revision={job_inputs.model.revision}"]
        if job_inputs.model.digest is not None:
            arguments += [f"--model-digest={job_inputs.model.digest}"]
        for name, model in job_inputs.models.items():
            revision = f"@{model.revision}" if model.revision is not None else ""
            arguments += ["--compare", f"{name}={self._fetch_model(blobs, model, f'models/{name}')}{revision}"]
            if model.digest is not None:
                arguments += ["--compare-digest", f"{name}={model.digest}"]
        return arguments

    def _fetch_model(self, blobs: BlobStore, model: Model, place: str) -> str:
        if model.source != "job":
            return model.location
        folder = self.inputs / place
        for key in blobs.list_keys(model.location):
            self._fetched_models.fetch(blobs, key, folder / key.removeprefix(f"{model.location}/"))
        return str(folder)

    def _fetch_retrained_log(self, blobs: BlobStore, log: Artifact | None) -> list[str]:
        if log is None:
            return []
        path = self.inputs / f"{log.job_id}-{PurePosixPath(log.path).name}"  # the report shows this name
        blobs.fetch(log.blob, path)
        return ["--retrained-log", str(path), "--retrained-log-sha256", log.sha256]

    def _fetch_datasets(self, blobs: BlobStore, datasets: Mapping[str, Dataset]) -> list[str]:
        arguments: list[str] = []
        for name, dataset in datasets.items():
            assert dataset.blob is not None
            path = self.inputs / f"{name}.jsonl"
            blobs.fetch(dataset.blob, path)
            has_own_option = name in {FORGET, RETAIN, GENERAL, TRAIN, HOLDOUT}
            arguments += [f"--{name}", str(path)] if has_own_option else ["--dataset", f"{name}={path}"]
            if dataset.content_sha256 is not None:
                arguments += ["--dataset-sha256", f"{name}={dataset.content_sha256}"]
        return arguments

    def _write_key(self, key: str) -> Path:
        """Write the key to a file that only this account can read; other accounts can see a process's arguments."""
        path = self.inputs / "row-digests.key"
        path.touch(mode=0o600)
        path.write_text(key)
        return path
