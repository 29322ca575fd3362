"""What a job tells and makes: events, curves, report, artifacts."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.orm import Session

from api.auth import Caller
from api.deps import CallerDep, JobsReader, OwnedJob, SessionDep, owned_job
from api.errors import ServiceError, not_found
from api.schemas import ArtifactOut, EventOut, EventsOut, MetricsOut, Page
from api.store import job_queries, jobs
from api.store.blobs import CHUNK_BYTES, blobs
from api.store.database import transaction
from api.store.tables import Artifact, AuditEntry, Job

router = APIRouter(prefix="/v1", tags=["results"])

_LOOK_SECONDS = 0.3
_WEIGHTS = "checkpoint/"


@router.get("/jobs/{job_id}/events", operation_id="list_job_events")
def events(
    job: OwnedJob,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, description="Only events behind this seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> EventsOut:
    """List what happened to a job, in order."""
    rows = job_queries.events_after(session, job.id, after, limit=limit + 1)
    return EventsOut(data=[EventOut.model_validate(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get("/jobs/{job_id}/events/stream", response_class=EventSourceResponse, operation_id="stream_job_events")
async def stream(
    job: OwnedJob,
    caller: JobsReader,
    last_event_id: Annotated[int, Header(ge=0, description="Go on behind this event.")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Stream a job's events live; the stream ends when the job has ended. A cut one goes on by Last-Event-ID.

    `progress` and `metrics` tell where the job is now; they have no id, are not kept, and are not sent again.
    """
    seen, told = last_event_id, None
    while True:
        news = await run_in_threadpool(_news, caller, job.id, seen)
        for event in news.events:
            seen = event.seq
            yield ServerSentEvent(data=event, event=event.kind, id=str(event.seq))
        if news.moment != told:
            told = news.moment
            for kind, data in news.moment.items():
                now = EventOut(seq=0, kind=kind, data=data, at=datetime.now(UTC))
                yield ServerSentEvent(data=now, event=kind)
        if news.over and not news.events:
            return
        if not news.events:
            await asyncio.sleep(_LOOK_SECONDS)


@router.get("/jobs/{job_id}/metrics", operation_id="get_job_metrics")
def metrics(job: OwnedJob, session: SessionDep) -> MetricsOut:
    """Return the run's curves, one value a step."""
    points = job_queries.metrics_of(session, job.id)
    names = list(dict.fromkeys(name for point in points for name in point.values))
    return MetricsOut(
        steps=[point.step for point in points],
        curves={name: [point.values.get(name) for point in points] for name in names},
    )


@router.get(
    "/jobs/{job_id}/report",
    operation_id="get_job_report",
    responses={
        200: {
            "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}}
        }
    },
)
def report(job: OwnedJob, accept: Annotated[str, Header()] = "application/json") -> Response:
    """Return the report: JSON, or the page for `Accept: text/html`."""
    if job.report_blob is None:
        raise ServiceError(409, "no_report", f"job {job.id} has no report: it is {job.status}", job_status=job.status)
    as_page = accept.find("text/html") >= 0 and "application/json" not in accept.partition("text/html")[0]
    key = job.report_blob.removesuffix(".json") + (".html" if as_page else ".json")
    with blobs().open(key) as content:
        body = content.read()
    headers = {"Vary": "Accept"}
    if as_page:  # self-contained and inert: nothing in it may run or load
        headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return Response(body, media_type="text/html; charset=utf-8" if as_page else "application/json", headers=headers)


@router.get("/jobs/{job_id}/artifacts", operation_id="list_job_artifacts")
def artifacts(job: OwnedJob, session: SessionDep) -> Page[ArtifactOut]:
    """List the files a job made, with size and sha256."""
    if job.report_blob is None:
        raise ServiceError(
            409, "no_artifacts", f"job {job.id} has made no files: it is {job.status}", job_status=job.status
        )
    return Page(data=[ArtifactOut.model_validate(row) for row in job_queries.artifacts_of(session, job.id)])


@router.api_route(
    "/artifacts/{artifact_id}/content",
    methods=["GET"],
    operation_id="get_artifact_content",
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The range that was asked for."},
        304: {"description": "If-None-Match has this version."},
        416: {"description": "No such range."},
    },
)
@router.api_route("/artifacts/{artifact_id}/content", methods=["HEAD"], include_in_schema=False)
def content(
    request: Request,
    artifact_id: str,
    caller: CallerDep,
    session: SessionDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Download a file. Range, If-Range and If-None-Match work; the ETag is the file's sha256.

    Weights need the scope models:download; those of a job whose verdict is not `passed` need
    models:download_unverified, and that is written to the audit log.
    """
    made = session.get(Artifact, artifact_id)
    if made is None or made.tenant_id != caller.tenant_id:
        raise not_found(f"artifact {artifact_id}")
    _may_download(session, caller, made, owned_job(session, caller, made.job_id))
    etag = f'"{made.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(made.sha256)).decode()}:",
        "Cache-Control": "private, no-cache",
    }
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    path = blobs().local_path(made.blob)
    assert path is not None
    filename = made.path.rsplit("/", 1)[-1]
    response = FileResponse(path, headers=headers, media_type="application/octet-stream", filename=filename)
    response.chunk_size = CHUNK_BYTES  # four times as fast as the default
    return response


def _may_download(session: Session, caller: Caller, made: Artifact, job: Job) -> None:
    if not made.path.startswith(_WEIGHTS):
        return caller.require("jobs:read")
    if job.verdict == "passed":
        return caller.require("models:download")
    if not caller.may("models:download_unverified"):
        raise ServiceError(
            403,
            "unverified_model",
            f"the verdict of job {job.id} is '{job.verdict}', not 'passed': its weights need the scope "
            "models:download_unverified",
            scope="models:download_unverified",
        )
    entry = AuditEntry(
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        action="artifact.download_unverified",
        resource=made.id,
        data={"job_id": job.id, "path": made.path, "verdict": job.verdict},
    )
    session.add(entry)
    return None


@dataclass(frozen=True)
class _News:
    """What happened behind an event, where the job is now, and whether it was over before that was read."""

    events: list[EventOut]
    moment: dict[str, dict[str, Any]]
    over: bool


def _news(caller: Caller, job_id: str, seen: int) -> _News:
    with transaction() as session:
        job = owned_job(session, caller, job_id)
        moment: dict[str, dict[str, Any]] = {}
        if job.status == "running" and job.progress:
            if job.phase == "unlearn" and (point := job_queries.last_metric(session, job_id)) is not None:
                moment["metrics"] = {"step": point.step, **point.values}
            moment["progress"] = {
                "phase": job.phase,
                "done": job.progress.get("step"),
                "total": job.progress.get("total_steps"),
                "unit": job.progress.get("unit"),
                "eta_seconds": job.progress.get("eta_seconds"),
            }
        rows = job_queries.events_after(session, job_id, seen)
        events = [EventOut.model_validate(row) for row in rows]
        return _News(events, moment if not events else {}, over=job.status in jobs.TERMINAL)
