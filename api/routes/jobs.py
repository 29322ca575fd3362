"""Jobs: create, list, get, wait, cancel, pause, resume, retry; before that the methods and estimates."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from api.auth import Caller, authenticate
from api.deps import Cursor, JobFeedDep, JobsReader, JobsWriter, Limit, PlacesDep, SessionDep, bearer
from api.http_preconditions import has_etag
from api.routes.job_filters import METADATA_PARAMETER, MetadataFilter
from api.schemas.common import Page
from api.schemas.jobs import EstimateOut, JobOut
from api.schemas.methods import MethodsOut
from api.schemas.submissions import JobCreate, JobRetry
from api.services import estimates, idempotency, job_retries, methods
from api.services import jobs as service
from soul_core.spec import JobKind
from soul_store.database import Session, transaction
from soul_store.job_status import JobStatus

router = APIRouter(prefix="/v1", tags=["jobs"])

#: Interval at which a request that waits looks whether its client is still there.
_CHECK_SECONDS = 5.0

_NO_CHANGES = JobRetry()

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "Path of the resource.", "schema": {"type": "string"}}}}
}


@router.get("/methods", operation_id="list_methods", tags=["methods"])
def list_methods(caller: JobsReader) -> MethodsOut:
    """Return the choices of a spec: terms, optimizers, curvatures and metrics with JSON schemas and defaults."""
    return MethodsOut.model_validate(methods.list_methods())


@router.post("/estimates", operation_id="estimate_job")
def create_estimate(body: JobCreate, caller: JobsReader, session: SessionDep) -> EstimateOut:
    """Return the estimated cost of a job and whether it would be accepted. Nothing is written."""
    return estimates.estimate(session, caller, body)


@router.post("/jobs", status_code=202, operation_id="create_job", response_model=JobOut, responses=ACCEPTED)
def create_job(
    body: JobCreate,
    caller: JobsWriter,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None, Header(description="Any unique text: requests with the same key create one job.")
    ] = None,
) -> Response:
    """Submit a job of any kind: unlearn, finetune or evaluate."""
    return serve_creation(session, caller, body, idempotency_key, collection_path="/v1/jobs")


@router.get("/jobs", operation_id="list_jobs", openapi_extra=METADATA_PARAMETER)
def list_jobs(
    caller: JobsReader,
    session: SessionDep,
    metadata: MetadataFilter,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs of this status.")] = None,
    name: Annotated[str | None, Query(description="Only jobs of this name.")] = None,
    kind: Annotated[JobKind | None, Query(description="Only jobs of this kind.")] = None,
) -> Page[JobOut]:
    """List jobs, newest first."""
    return make_job_page(session, caller, limit, cursor, status=status, name=name, kind=kind, metadata=metadata)


@router.get(
    "/jobs/{job_id}",
    operation_id="get_job",
    response_model=JobOut,
    dependencies=[Depends(bearer)],
    responses={
        200: {"headers": {"ETag": {"description": "The job's version.", "schema": {"type": "string"}}}},
        304: {"description": "The job has the version of If-None-Match."},
    },
)
async def get_job(
    request: Request,
    places: PlacesDep,
    feed: JobFeedDep,
    job_id: str,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Delay the response up to this many seconds, until the job changes.")
    ] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a job. With `wait` and If-None-Match the response comes when the job no longer has that version.

    The API key is checked at each round of the wait: once it is revoked or expired, the response is 401.
    """
    deadline = time.monotonic() + wait
    known_version = if_none_match
    with feed.subscribe(job_id) as changes:
        while True:
            etag, job = await places.run(_read_job, request.headers.get("authorization"), job_id)
            if known_version is None:
                known_version = etag
            seconds_left = deadline - time.monotonic()
            if not has_etag(known_version, etag) or job.status.is_terminal or seconds_left <= 0:
                break
            if await request.is_disconnected():
                break
            await changes.wait(min(seconds_left, _CHECK_SECONDS))
    if has_etag(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return JSONResponse(job.model_dump(mode="json"), headers={"ETag": etag, "Cache-Control": "no-cache"})


@router.post("/jobs/{job_id}/cancel", operation_id="cancel_job")
def cancel_job(job_id: str, caller: JobsWriter, session: SessionDep) -> JobOut:
    """Cancel a job: one that waits immediately, one that runs at its next step. 409 if it has finished."""
    return _act(session, caller, job_id, "cancel")


@router.post("/jobs/{job_id}/pause", operation_id="pause_job")
def pause_job(job_id: str, caller: JobsWriter, session: SessionDep) -> JobOut:
    """Pause a job: one that waits immediately, one that runs at its next step, where it writes a checkpoint."""
    return _act(session, caller, job_id, "pause")


@router.post("/jobs/{job_id}/resume", operation_id="resume_job")
def resume_job(job_id: str, caller: JobsWriter, session: SessionDep) -> JobOut:
    """Resume a paused job: it waits again, and continues from its checkpoint with the same result."""
    return _act(session, caller, job_id, "resume")


@router.post(
    "/jobs/{job_id}/retry", status_code=202, operation_id="retry_job", response_model=JobOut, responses=ACCEPTED
)
def retry_job(
    job_id: str,
    caller: JobsWriter,
    session: SessionDep,
    body: Annotated[JobRetry, Body()] = _NO_CHANGES,
    idempotency_key: Annotated[
        str | None, Header(description="Any unique text: requests with the same key create one job.")
    ] = None,
) -> Response:
    """Submit a failed or cancelled job again, as a new job; while a retry of it is unfinished, return that one."""

    def serve() -> idempotency.IdempotentResponse:
        job = job_retries.retry(session, caller, service.get_owned(session, caller, job_id), body)
        content = service.make_job_out(session, job).model_dump(mode="json")
        return idempotency.IdempotentResponse(202, {"Location": f"/v1/jobs/{job.id}"}, content)

    request = {"retry_of": job_id, **body.model_dump(mode="json", exclude_unset=True)}
    response = idempotency.serve_once(session, caller, idempotency_key, request, serve)
    return JSONResponse(response.body, response.status, headers=response.headers)


def serve_creation(
    session: Session, caller: Caller, body: JobCreate, key: str | None, *, collection_path: str
) -> Response:
    """Create a job, once per Idempotency-Key; its Location is below `collection_path`."""

    def serve() -> idempotency.IdempotentResponse:
        job = service.create(session, caller, body)
        content = service.make_job_out(session, job).model_dump(mode="json")
        return idempotency.IdempotentResponse(202, {"Location": f"{collection_path}/{job.id}"}, content)

    response = idempotency.serve_once(session, caller, key, body.model_dump(mode="json"), serve)
    return JSONResponse(response.body, response.status, headers=response.headers)


def make_job_page(
    session: Session,
    caller: Caller,
    limit: int,
    cursor: str | None,
    *,
    status: JobStatus | None,
    name: str | None,
    kind: JobKind | None,
    metadata: dict[str, str],
) -> Page[JobOut]:
    """Return a page of the caller's jobs."""
    rows = service.list_page(
        session, caller, limit=limit + 1, before=cursor, status=status, name=name, kind=kind, metadata=metadata
    )
    return Page.of_all(rows, limit, lambda shown: service.make_jobs_out(session, shown))


def _act(session: Session, caller: Caller, job_id: str, action: str) -> JobOut:
    job = service.act(session, caller, service.get_owned(session, caller, job_id), action)
    return service.make_job_out(session, job)


def _read_job(authorization: str | None, job_id: str) -> tuple[str, JobOut]:
    """Return the ETag and the job, in a transaction of its own."""
    with transaction() as session:
        caller = authenticate(session, authorization)
        caller.require("jobs:read")
        job = service.get_owned(session, caller, job_id)
        return f'W/"{job.version}"', service.make_job_out(session, job)
