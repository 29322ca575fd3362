"""The events and metrics of a job: listed, or streamed while it runs."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.auth import Caller, require_active
from api.capacity import Places
from api.deps import JobFeedDep, JobsReader, OwnedJob, PlacesDep, SessionDep
from api.errors import ErrorCode, ServiceError
from api.job_feed import JobFeed, Subscription
from api.schemas.jobs import EventOut, EventsOut, MetricsOut
from api.services import events as service
from api.services import jobs
from soul_store.database import transaction

router = APIRouter(prefix="/v1", tags=["results"])

#: A stream looks for itself at this interval, should a notification be lost. A key that expires ends it by then too.
_CHECK_SECONDS = 30.0


@router.get("/jobs/{job_id}/events", operation_id="list_job_events")
def list_events(
    job: OwnedJob,
    session: SessionDep,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="Only events after this seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> EventsOut:
    """List the events of a job, in order."""
    rows = service.list_events(session, job, after=after, limit=limit + 1)
    return EventsOut(data=[EventOut.model_validate(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get("/jobs/{job_id}/events/stream", response_class=EventSourceResponse, operation_id="stream_job_events")
async def stream_events(
    job: OwnedJob,
    caller: JobsReader,
    places: PlacesDep,
    feed: JobFeedDep,
    last_event_id: Annotated[int, Header(ge=0, lt=1 << 63, description="Resume after this event.")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Stream the events of a job until it has finished. An interrupted stream resumes by Last-Event-ID.

    `progress` and `metrics` are the current state of the job; they have no id, are not stored and not repeated.
    The API key is checked at each round: once it is revoked or expired, the stream ends with an event `closed`.
    """
    seen, current = last_event_id, None
    with feed.subscribe(job.id, caller.key_id) as changes:
        while True:
            try:
                update = await _read_shared_update(places, feed, changes, caller, job.id, seen)
            except ServiceError as error:
                if error.code not in {ErrorCode.UNAUTHORIZED, ErrorCode.BUSY}:
                    raise
                if error.code == ErrorCode.UNAUTHORIZED:
                    yield _make_transient_event("closed", {"code": error.code, "message": error.detail})
                    return
                await changes.wait(1.0)
                continue
            for row in update.events:
                seen = row.seq
                yield ServerSentEvent(data=EventOut.model_validate(row), event=row.kind, id=str(row.seq))
            if update.current != current:
                current = update.current
                for kind, data in current.items():
                    yield _make_transient_event(kind, data)
            if update.has_finished and not update.events:
                return
            if not update.events:
                await changes.wait(_CHECK_SECONDS)


@router.get("/jobs/{job_id}/metrics", operation_id="get_job_metrics")
def get_metrics(job: OwnedJob, session: SessionDep) -> MetricsOut:
    """Return the curves of the run, one value per step."""
    return service.get_metrics(session, job)


async def _read_shared_update(
    places: Places, feed: JobFeed, changes: Subscription, caller: Caller, job_id: str, after: int
) -> service.JobUpdate:
    """Return what comes after an event. Streams of one key at the same event share the read."""
    key = (job_id, caller.key_id, after, changes.generation)
    return await feed.share(key, lambda: places.run(_read_update, caller, job_id, after))


def _read_update(caller: Caller, job_id: str, after: int) -> service.JobUpdate:
    with transaction() as session:
        require_active(session, caller)
        return service.read_update(session, jobs.get_owned(session, caller, job_id), after=after)


def _make_transient_event(kind: str, data: dict[str, Any]) -> ServerSentEvent:
    """Return an event without an id: it is not stored, and a resumed stream does not repeat it."""
    return ServerSentEvent(data=EventOut(seq=0, kind=kind, data=data, at=datetime.now(UTC)), event=kind)
