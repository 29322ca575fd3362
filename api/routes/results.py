"""What a job tells: events, curves, report. The files it made are in `artifacts.py`."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.auth import Caller
from api.deps import JobsReader, OwnedJob, SessionDep
from api.errors import make_problem_responses
from api.schemas.jobs import EventOut, EventsOut, MetricsOut
from api.services import jobs as service
from api.services.reports import HTML, JSON, PDF, choose_media_type, render_report
from soul_store import job_queries, job_state_machine
from soul_store.database import transaction

router = APIRouter(prefix="/v1", tags=["results"])

_LOOK_SECONDS = 0.3


@router.get("/jobs/{job_id}/events", operation_id="list_job_events")
def list_events(
    job: OwnedJob,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="Only list_events behind this seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> EventsOut:
    """List what happened to a job, in order."""
    rows = job_queries.list_events(session, job.id, after, limit=limit + 1)
    return EventsOut(data=[EventOut.model_validate(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get("/jobs/{job_id}/events/stream", response_class=EventSourceResponse, operation_id="stream_job_events")
async def stream_events(
    job: OwnedJob,
    caller: JobsReader,
    last_event_id: Annotated[int, Header(ge=0, lt=1 << 63, description="Go on behind this event.")] = 0,
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
def get_metrics(job: OwnedJob, session: SessionDep) -> MetricsOut:
    """Return the run's curves, one value a step."""
    points = job_queries.list_metrics(session, job.id)
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
            "content": {
                JSON: {"schema": {"type": "object"}},
                HTML: {"schema": {"type": "string"}},
                PDF: {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **make_problem_responses({501: "This server cannot make a PDF; `detail` says what it lacks."}),
    },
)
def get_report(job: OwnedJob, accept: Annotated[str, Header()] = JSON) -> Response:
    """Return the report: JSON (GET /v1/schemas/report is its schema), the page for `Accept: text/html`, the same as
    PDF for `Accept: application/pdf`.
    """
    media = choose_media_type(accept)
    headers = {"Vary": "Accept"}
    if media == HTML:  # self-contained and inert: nothing in it may run or load
        headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if media == PDF:
        headers["Content-Disposition"] = f'inline; filename="report-{job.id}.pdf"'
    return Response(render_report(job, media), headers=headers, media_type=media)


@dataclass(frozen=True)
class _News:
    """What happened behind an event, where the job is now, and whether it was over before that was read."""

    events: list[EventOut]
    moment: dict[str, dict[str, Any]]
    over: bool


def _news(caller: Caller, job_id: str, seen: int) -> _News:
    with transaction() as session:
        job = service.get_owned(session, caller, job_id)
        moment: dict[str, dict[str, Any]] = {}
        if job.status == "running" and job.progress:
            if (
                job.phase in {"unlearn", "finetune"}
                and (point := job_queries.get_last_metric(session, job_id)) is not None
            ):
                moment["metrics"] = {"step": point.step, **point.values}
            moment["progress"] = {
                "phase": job.phase,
                "done": job.progress.get("step"),
                "total": job.progress.get("total_steps"),
                "unit": job.progress.get("unit"),
                "eta_seconds": job.progress.get("eta_seconds"),
            }
        rows = job_queries.list_events(session, job_id, seen)
        list_events = [EventOut.model_validate(row) for row in rows]
        return _News(
            list_events, moment if not list_events else {}, over=job.status in job_state_machine.TERMINAL_STATUSES
        )
