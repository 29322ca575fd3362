"""SoulClient: the whole service from Python. `soul` is built on it, and so is anything of yours."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from soul_cli import download, events
from soul_cli.connection import find_connection
from soul_cli.errors import BadInput, SoulError
from soul_cli.resources import Artifact, Dataset, Estimate, Job, JobEvent, Model, Page, Resource
from soul_cli.transport import Transport

R = TypeVar("R", bound=Resource)
CHUNK_BYTES = 1 << 20


class SoulClient:
    """A connection to one service. Without arguments it finds the server as `soul` does (see `connection`).

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

    # What the service can do

    def get_me(self) -> dict[str, Any]:
        """Say who the API key is: project and scopes."""
        return self._json("GET", "/v1/me")

    def list_methods(self) -> dict[str, Any]:
        """Return every method with its JSON schema and defaults."""
        return self._json("GET", "/v1/methods")

    # Data sets

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
        """Upload a file as a data set: metadata first, then its bytes streamed from disk.

        `mapping` is {accepted name: the file's column}, `one+other` to join two. `clean=False` keeps white space and
        end-of-turn marks around prompts and answers; `normalize` rewrites texts in Unicode normal form C.
        `compare_with`: ids of data sets whose facts it should not state. What was found is in
        `dataset_validation(id)`, under `warnings` and `conflicts`.
        """
        if not path.is_file():
            raise BadInput(f"no such file: {path}")
        meta = {"name": name or path.name, "filename": path.name, "format": file_format, "mapping": dict(mapping or {})}
        switches = ({} if clean else {"clean": False}) | ({"normalize": True} if normalize else {})
        made = self._one(Dataset, "POST", "/v1/datasets", json={k: v for k, v in meta.items() if v} | switches)
        try:
            response = self.transport.request(
                "PUT",
                f"/v1/datasets/{made.id}/content",
                params={"compare_with": list(compare_with)} if compare_with else None,
                content=lambda: _chunks(path),
                headers={"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"},
            )
        except BaseException:
            self._forget_dataset(made.id)
            raise
        return Dataset.model_validate(response.json())

    def list_datasets(self, *, limit: int | None = None) -> Iterator[Dataset]:
        """Yield data sets, newest first."""
        return self._pages(Dataset, "/v1/datasets", limit=limit)

    def get_dataset(self, dataset_id: str) -> Dataset:
        """Return one data set."""
        return self._one(Dataset, "GET", f"/v1/datasets/{dataset_id}")

    def get_dataset_validation(self, dataset_id: str) -> dict[str, Any]:
        """Return its validation report: every bad row by number, and warnings about rows that can be used."""
        return self._json("GET", f"/v1/datasets/{dataset_id}/validation")

    def delete_dataset(self, dataset_id: str) -> dict[str, Any]:
        """Delete a data set; return the receipt where the server gives one."""
        return self._json("DELETE", f"/v1/datasets/{dataset_id}")

    # Models

    def add_model(self, source: str, location: str, *, name: str | None = None, revision: str | None = None) -> Model:
        """Register a model. `source`: hub (an id), local (a folder), gguf (a file) or job (a job's id)."""
        body = {"source": source, "location": location, "name": name, "revision": revision}
        return self._one(Model, "POST", "/v1/models", json={k: v for k, v in body.items() if v})

    def list_models(self, *, limit: int | None = None) -> Iterator[Model]:
        """Yield models, newest first."""
        return self._pages(Model, "/v1/models", limit=limit)

    def get_model(self, model_id: str) -> Model:
        """Return one model."""
        return self._one(Model, "GET", f"/v1/models/{model_id}")

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
        """Ask what a job would cost and whether it would be taken. Charges nothing."""
        body = _body(model_id=model_id, datasets=datasets, spec=spec, models=models, retrained=retrained)
        return self._one(Estimate, "POST", "/v1/estimates", json=body)

    def submit(
        self,
        *,
        model_id: str,
        datasets: Mapping[str, str],
        spec: Mapping[str, Any],
        models: Mapping[str, str] | None = None,
        retrained: Mapping[str, Any] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job. A key made here lets a retry after a lost answer find the same job instead of a second one.

        `models` are measured beside its own (name -> model id); `reference` says where the retrained one comes from,
        as {"kind": "retrain", "model_id": ...}.
        """
        body = _body(model_id=model_id, datasets=datasets, spec=spec, models=models, retrained=retrained, name=name)
        return self._post_job("/v1/jobs", body, idempotency_key)

    def evaluate(
        self,
        *,
        model_id: str,
        datasets: Mapping[str, str],
        spec: Mapping[str, Any] | None = None,
        models: Mapping[str, str] | None = None,
        retrained: Mapping[str, Any] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Measure a model, and others beside it, without changing any. What comes back is a job like others."""
        given = spec or {}
        body = _body(model_id=model_id, datasets=datasets, spec=given, models=models, retrained=retrained, name=name)
        return self._post_job("/v1/evaluations", body, idempotency_key)

    def list_evaluations(self, *, status: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """Yield evaluations, newest first."""
        return self._pages(Job, "/v1/evaluations", limit=limit, **({"status": status} if status else {}))

    def list_jobs(
        self, *, status: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> Iterator[Job]:
        """Yield jobs, newest first. `kind`: unlearn, finetune or evaluate."""
        wanted = {"status": status, "kind": kind}
        return self._pages(Job, "/v1/jobs", limit=limit, **{name: value for name, value in wanted.items() if value})

    def get_job(self, job_id: str, *, wait_seconds: float | None = None) -> Job:
        """Return one job; with `wait_seconds` the server holds the answer until the job changes."""
        return events.get_job(self.transport, job_id, wait_seconds=wait_seconds)

    def wait(self, job_id: str) -> Job:
        """Wait until the job has finished, and return it."""
        for _ in self.stream_events(job_id):
            pass
        return self.get_job(job_id)

    def stream_events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """Yield the job's events from `after` on, live, until it has finished; survives lost connections."""
        return events.follow(self.transport, job_id, after=after)

    def get_metrics(self, job_id: str) -> dict[str, Any]:
        """Return the run's curves."""
        return self._json("GET", f"/v1/jobs/{job_id}/metrics")

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled; a running one stops at its next step."""
        return self._one(Job, "POST", f"/v1/jobs/{job_id}/cancel")

    def get_report(self, job_id: str) -> dict[str, Any]:
        """Return the report; `soul_core.report.Report` is its schema."""
        return self._json("GET", f"/v1/jobs/{job_id}/report", headers={"Accept": "application/json"})

    def get_report_html(self, job_id: str) -> str:
        """Return the report as a page."""
        return self.transport.request("GET", f"/v1/jobs/{job_id}/report", headers={"Accept": "text/html"}).text

    def get_report_pdf(self, job_id: str) -> bytes:
        """Return the report as PDF; a server that cannot make one answers 501 and says what it lacks."""
        return self.transport.request("GET", f"/v1/jobs/{job_id}/report", headers={"Accept": "application/pdf"}).content

    def get_report_schema(self) -> dict[str, Any]:
        """Return the JSON schema of reports."""
        return self._json("GET", "/v1/schemas/report")

    def list_artifacts(self, job_id: str) -> list[Artifact]:
        """Return the manifest of a finished job's files."""
        return list(self._pages(Artifact, f"/v1/jobs/{job_id}/artifacts"))

    def download(
        self, job_id: str, folder: Path, *, on_progress: download.DownloadProgressCallback | None = None
    ) -> list[download.DownloadedFile]:
        """Fetch all files of a job into a folder; resume partial ones, check every sha256."""
        return download.fetch_all(self.transport, self.list_artifacts(job_id), folder, on_progress=on_progress)

    # How

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self.transport.request(method, path, **options)
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    def _one(self, kind: type[R], method: str, path: str, **options: Any) -> R:
        return kind.model_validate(self._json(method, path, **options))

    def _post_job(self, path: str, body: dict[str, Any], idempotency_key: str | None) -> Job:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._one(Job, "POST", path, json=body, headers=headers)

    def _pages(self, of: type[R], path: str, *, limit: int | None = None, **params: Any) -> Iterator[R]:
        num_left = limit
        while True:
            page = Page[of].model_validate(self._json("GET", path, params=params))  # type: ignore[valid-type]
            for item in page.data:
                if num_left == 0:
                    return
                yield item
                num_left = None if num_left is None else num_left - 1
            if not page.has_more or not page.next_cursor:
                return
            params["cursor"] = page.next_cursor

    def _forget_dataset(self, dataset_id: str) -> None:
        """Take back a data set whose upload failed, if the server still listens; the first error is the one to tell."""
        with suppress(SoulError):
            self.transport.request("DELETE", f"/v1/datasets/{dataset_id}")


def _body(**parts: Any) -> dict[str, Any]:
    """Return a job's body; what was not given is left to the server's defaults."""
    return {name: dict(part) if isinstance(part, Mapping) else part for name, part in parts.items() if part is not None}


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
