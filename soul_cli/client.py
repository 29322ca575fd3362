"""SoulClient: the service from Python. The `soul` command is built on it."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from soul_cli import download, events, job_logs
from soul_cli.connection import find_connection
from soul_cli.errors import BadInput, SoulError
from soul_cli.resources import Artifact, Dataset, Estimate, Job, JobEvent, LogLine, Model, Page, Resource, Worker
from soul_cli.transport import Transport

R = TypeVar("R", bound=Resource)
CHUNK_BYTES = 1 << 20


class SoulClient:
    """A connection to one service. Without arguments it finds the server as the `soul` command does (see `connection`).

    >>> with SoulClient() as soul:
    ...     job = soul.submit(model_id="mdl_...", datasets={"forget": "ds_..."}, spec={})
    ...     job = soul.wait(job.id)
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, transport: Transport | None = None) -> None:
        if transport is None:
            connection = find_connection(url=url, key=key)
            transport = Transport(connection.url, connection.key)
        self.transport = transport

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    # Service

    def get_me(self) -> dict[str, Any]:
        """Return the project and the scopes of the API key."""
        return self._get("/v1/me")

    def list_methods(self) -> dict[str, Any]:
        """Return every method with its JSON schema and defaults."""
        return self._get("/v1/methods")

    # Datasets

    def add_dataset(
        self,
        path: Path,
        *,
        name: str | None = None,
        file_format: str | None = None,
        mapping: Mapping[str, str] | None = None,
        clean: bool = True,
        normalize: bool = False,
        compare_with: Sequence[str] = (),
    ) -> Dataset:
        """Upload a file as a dataset: metadata first, then its bytes, streamed from disk.

        The findings of the upload are in `get_dataset_validation(id)`, under `warnings` and `conflicts`.

        Args:
            path: the file to upload.
            name: name of the dataset; default: the file's name.
            file_format: jsonl, csv, parquet or text; default: detected from the file's name and content.
            mapping: accepted name -> the file's column; `first+second` joins two columns.
            clean: whether white space and end-of-turn marks around prompts and answers are removed.
            normalize: whether texts are rewritten in Unicode normal form C.
            compare_with: ids of datasets whose facts this one should not state.
        """
        if not path.is_file():
            raise BadInput(f"no such file: {path}")
        meta = {"name": name or path.name, "filename": path.name, "format": file_format, "mapping": dict(mapping or {})}
        switches = ({} if clean else {"clean": False}) | ({"normalize": True} if normalize else {})
        dataset = self._post(Dataset, "/v1/datasets", json={k: v for k, v in meta.items() if v} | switches)
        try:
            answer = self.transport.request_json(
                "PUT",
                f"/v1/datasets/{dataset.id}/content",
                params={"compare_with": list(compare_with)} if compare_with else None,
                content=lambda: _read_chunks(path),
                headers={"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"},
            )
        except BaseException:
            with suppress(SoulError):  # the error of the upload is the one to report
                self.delete_dataset(dataset.id)
            raise
        return Dataset.model_validate(answer)

    def list_datasets(self, *, limit: int | None = None) -> Iterator[Dataset]:
        """Yield datasets, newest first."""
        return self._list(Dataset, "/v1/datasets", limit=limit)

    def get_dataset(self, dataset_id: str) -> Dataset:
        """Return one dataset."""
        return Dataset.model_validate(self._get(f"/v1/datasets/{dataset_id}"))

    def get_dataset_validation(self, dataset_id: str) -> dict[str, Any]:
        """Return the validation report of a dataset: every bad row by number, and warnings about usable rows."""
        return self._get(f"/v1/datasets/{dataset_id}/validation")

    def delete_dataset(self, dataset_id: str) -> dict[str, Any]:
        """Delete a dataset; return the receipt, or {} from a server that gives none."""
        return self.transport.request_json("DELETE", f"/v1/datasets/{dataset_id}")

    # Models

    def add_model(self, source: str, location: str, *, name: str | None = None, revision: str | None = None) -> Model:
        """Register a model.

        Args:
            source: the kind of `location`: hub (an id), local (a folder), gguf (a file) or job (a job's id).
            location: the model's id or path.
            name: name of the model; default: the server's choice.
            revision: branch, tag or commit of a hub model.
        """
        body = {"source": source, "location": location, "name": name, "revision": revision}
        return self._post(Model, "/v1/models", json={k: v for k, v in body.items() if v})

    def list_models(self, *, limit: int | None = None) -> Iterator[Model]:
        """Yield models, newest first."""
        return self._list(Model, "/v1/models", limit=limit)

    def get_model(self, model_id: str) -> Model:
        """Return one model."""
        return Model.model_validate(self._get(f"/v1/models/{model_id}"))

    def delete_model(self, model_id: str) -> None:
        """Delete a model's registration."""
        self.transport.request("DELETE", f"/v1/models/{model_id}")

    # Jobs

    def estimate(
        self,
        *,
        model_id: str,
        datasets: Mapping[str, str],
        spec: Mapping[str, Any],
        models: Mapping[str, str] | None = None,
        retrained: Mapping[str, Any] | None = None,
    ) -> Estimate:
        """Estimate what a job would cost and whether it would be accepted. Charges nothing."""
        body = _make_body(model_id=model_id, datasets=datasets, spec=spec, models=models, retrained=retrained)
        return self._post(Estimate, "/v1/estimates", json=body)

    def submit(
        self,
        *,
        model_id: str,
        datasets: Mapping[str, str],
        spec: Mapping[str, Any],
        models: Mapping[str, str] | None = None,
        retrained: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduling: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job.

        Args:
            model_id: the model to change.
            datasets: dataset name -> id.
            spec: the job spec; the server fills in defaults.
            models: further models to measure, name -> model id.
            retrained: where the retrained model comes from, such as {"kind": "retrain", "model_id": ...}.
            name: name of the job.
            scheduling: further fields of the job: priority, deadline, max_gpu_seconds, metadata.
            idempotency_key: a second request with this key returns the job of the first; default: a new key, so that a
                retry after a lost answer does not create a second job.
        """
        body = _make_body(
            model_id=model_id, datasets=datasets, spec=spec, models=models, retrained=retrained, name=name
        )
        return self._post_job("/v1/jobs", {**body, **(scheduling or {})}, idempotency_key)

    def evaluate(
        self,
        *,
        model_id: str,
        datasets: Mapping[str, str],
        spec: Mapping[str, Any] | None = None,
        models: Mapping[str, str] | None = None,
        retrained: Mapping[str, Any] | None = None,
        name: str | None = None,
        scheduling: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job that measures a model, and any other `models`, without changing them. Arguments as `submit`."""
        body = _make_body(
            model_id=model_id, datasets=datasets, spec=spec or {}, models=models, retrained=retrained, name=name
        )
        return self._post_job("/v1/evaluations", {**body, **(scheduling or {})}, idempotency_key)

    def list_evaluations(self, *, status: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """Yield evaluations, newest first."""
        return self._list(Job, "/v1/evaluations", limit=limit, status=status)

    def list_jobs(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Yield jobs with all of the metadata, newest first. `kind`: unlearn, finetune or evaluate."""
        pairs = {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        return self._list(Job, "/v1/jobs", limit=limit, status=status, kind=kind, **pairs)

    def get_job(self, job_id: str, *, wait_seconds: float | None = None) -> Job:
        """Return one job; with `wait_seconds` the server holds the answer until the job changes."""
        return events.get_job(self.transport, job_id, wait_seconds=wait_seconds)

    def wait(self, job_id: str) -> Job:
        """Wait until the job has finished, and return it."""
        for _ in self.stream_events(job_id):
            pass
        return self.get_job(job_id)

    def stream_events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """Yield the job's events with a `seq` above `after`, live, until it has finished. Lost connections resume."""
        return events.follow(self.transport, job_id, after=after)

    def read_log(self, job_id: str, *, attempt: int | None = None, tail: int | None = None) -> Iterator[LogLine]:
        """Yield the lines that the job's worker and engine wrote, or the last `tail` of them; of one attempt or all."""
        return job_logs.read_log(self.transport, job_id, attempt=attempt, tail=tail)

    def follow_log(self, job_id: str, *, attempt: int | None = None, tail: int | None = None) -> Iterator[LogLine]:
        """Yield the job's log, and new lines as they are written, until the job has finished."""
        return job_logs.follow_log(self.transport, job_id, attempt=attempt, tail=tail)

    def get_metrics(self, job_id: str) -> dict[str, Any]:
        """Return the curves of the job's run."""
        return self._get(f"/v1/jobs/{job_id}/metrics")

    def cancel(self, job_id: str) -> Job:
        """Request that a job is cancelled; a running one stops at its next step."""
        return self._post(Job, f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> Job:
        """Request that a job is paused; a running one writes a checkpoint at its next step."""
        return self._post(Job, f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> Job:
        """Resume a paused job, or withdraw the requested pause of a running one."""
        return self._post(Job, f"/v1/jobs/{job_id}/resume")

    def retry(self, job_id: str, *, idempotency_key: str | None = None, **changes: Any) -> Job:
        """Submit a failed or cancelled job again, as a new job.

        Args:
            job_id: the job to repeat; while a retry of it is unfinished, that one is returned.
            idempotency_key: as in `submit`.
            changes: priority, deadline or max_gpu_seconds, if they differ; None removes a limit.
        """
        return self._post_job(f"/v1/jobs/{job_id}/retry", changes, idempotency_key)

    def list_workers(self) -> list[Worker]:
        """Return the workers of the fleet."""
        return [Worker.model_validate(worker) for worker in self._get("/v1/workers")["data"]]

    def get_report(self, job_id: str) -> dict[str, Any]:
        """Return the report; `soul_core.report.Report` is its schema."""
        return self._get(f"/v1/jobs/{job_id}/report", headers={"Accept": "application/json"})

    def get_report_html(self, job_id: str) -> str:
        """Return the report as an HTML page."""
        return self.transport.request("GET", f"/v1/jobs/{job_id}/report", headers={"Accept": "text/html"}).text

    def get_report_pdf(self, job_id: str) -> bytes:
        """Return the report as PDF; a server that cannot make one answers 501 and names what it lacks."""
        return self.transport.request("GET", f"/v1/jobs/{job_id}/report", headers={"Accept": "application/pdf"}).content

    def get_report_schema(self) -> dict[str, Any]:
        """Return the JSON schema of reports."""
        return self._get("/v1/schemas/report")

    def list_artifacts(self, job_id: str) -> list[Artifact]:
        """Return the manifest of a finished job's files."""
        return list(self._list(Artifact, f"/v1/jobs/{job_id}/artifacts"))

    def download(
        self, job_id: str, folder: Path, *, on_progress: download.DownloadProgressCallback | None = None
    ) -> list[download.DownloadedFile]:
        """Download all files of a job into a folder; resume partial ones, check every sha256."""
        return download.fetch_all(self.transport, self.list_artifacts(job_id), folder, on_progress=on_progress)

    def _get(self, path: str, **options: Any) -> dict[str, Any]:
        return self.transport.request_json("GET", path, **options)

    def _post(self, resource: type[R], path: str, **options: Any) -> R:
        return resource.model_validate(self.transport.request_json("POST", path, **options))

    def _post_job(self, path: str, body: dict[str, Any], idempotency_key: str | None) -> Job:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._post(Job, path, json=body, headers=headers)

    def _list(self, resource: type[R], path: str, *, limit: int | None = None, **filters: str | None) -> Iterator[R]:
        """Yield the resources of a list, page by page, at most `limit`; filters that are None are not sent."""
        params = {name: value for name, value in filters.items() if value}
        num_left = limit
        while True:
            page = Page[resource].model_validate(self._get(path, params=params))  # type: ignore[valid-type]
            for item in page.data:
                if num_left == 0:
                    return
                yield item
                num_left = None if num_left is None else num_left - 1
            if not page.has_more or not page.next_cursor:
                return
            params["cursor"] = page.next_cursor


def _make_body(**fields: Any) -> dict[str, Any]:
    """Return a job's body; a field that is None is left to the server's default."""
    return {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if value is not None
    }


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
