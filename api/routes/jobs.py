"""Jobs over HTTP: submit, list, look, wait, cancel; methods and estimates before that."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from api.auth import Caller, authenticate
from api.deps import Cursor, JobsReader, JobsWriter, Limit, SessionDep, bearer
from api.http_preconditions import has_etag
from api.schemas.jobs import EstimateOut, JobOut, JobStatus, MethodsOut, Page
from api.schemas.submissions import JobCreate
from api.services import idempotency
from api.services import jobs as service
from api.services.estimates import estimate as estimate_job
from api.services.methods import list_methods as all_methods
from soul_core.spec import JobKind
from soul_store import job_queries, job_state_machine
from soul_store.database import transaction

router = APIRouter(prefix="/v1", tags=["jobs"])

#: A waiting request looks this often; it holds neither a thread nor a connection in between.
_LOOK_SECONDS = 0.25

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}}
}


@router.get("/methods", operation_id="list_methods", tags=["methods"])
def list_methods(caller: JobsReader) -> MethodsOut:
    """Return what a spec may say: terms, optimizers, curvatures and metrics with JSON schemas and defaults."""
    return MethodsOut.model_validate(all_methods())


@router.post("/estimates", operation_id="estimate_job")
def create_estimate(body: JobCreate, caller: JobsReader, session: SessionDep) -> EstimateOut:
    """Say what a job would cost and whether it would be taken. Nothing is written or spent."""
    return estimate_job(session, caller, body)


@router.post("/jobs", status_code=202, operation_id="create_job", response_model=JobOut, responses=ACCEPTED)
def create_job(
    body: JobCreate,
    caller: JobsWriter,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None, Header(description="Any unique text: a request sent twice with it makes one job.")
    ] = None,
) -> Response:
    """Submit a job of any kind: unlearn, finetune or evaluate."""
    return submit_job(session, caller, body, idempotency_key, collection_path="/v1/jobs")


@router.get("/jobs", operation_id="list_jobs")
def list_jobs(
    caller: JobsReader,
    session: SessionDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs of this status.")] = None,
    name: Annotated[str | None, Query(description="Only jobs of this name.")] = None,
    kind: Annotated[JobKind | None, Query(description="Only jobs of this kind.")] = None,
) -> Page[JobOut]:
    """List jobs, newest first."""
    return get_job_page(session, caller, limit=limit, cursor=cursor, status=status, name=name, kind=kind)


@router.get(
    "/jobs/{job_id}",
    operation_id="get_job",
    response_model=JobOut,
    dependencies=[Depends(bearer)],
    responses={
        200: {"headers": {"ETag": {"description": "The job's version.", "schema": {"type": "string"}}}},
        304: {"description": "If-None-Match has this version."},
    },
)
async def get_job(
    request: Request,
    job_id: str,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Hold the answer up to this many seconds until the job changes.")
    ] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return one job. With `wait` and If-None-Match the answer comes when the job is no longer that version."""
    deadline = time.monotonic() + wait
    known = if_none_match
    while True:
        etag, shown = await run_in_threadpool(_look, request, job_id)
        if known is None:
            known = etag
        over = shown.status in job_state_machine.TERMINAL_STATUSES
        if not has_etag(known, etag) or over or time.monotonic() >= deadline or await request.is_disconnected():
            break
        await asyncio.sleep(_LOOK_SECONDS)
    if has_etag(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return JSONResponse(shown.model_dump(mode="json"), headers={"ETag": etag, "Cache-Control": "no-cache"})


@router.post("/jobs/{job_id}/cancel", operation_id="cancel_job")
def cancel_job(job_id: str, caller: JobsWriter, session: SessionDep) -> JobOut:
    """Cancel a job. A waiting one ends at once, a running one at its next step; one that is over answers 409."""
    return service.make_job_out(session, service.cancel(session, caller, service.get_owned(session, caller, job_id)))


def submit_job(session: Session, caller: Caller, body: JobCreate, key: str | None, *, collection_path: str) -> Response:
    """Make a job once per Idempotency-Key and answer with it; `at` is the collection it is shown in."""

    def serve() -> idempotency.IdempotentResponse:
        job = service.create(session, caller, body)
        shown = service.make_job_out(session, job).model_dump(mode="json")
        return idempotency.IdempotentResponse(202, {"Location": f"{collection_path}/{job.id}"}, shown)

    answer = idempotency.serve_once(session, caller, key, body.model_dump(mode="json"), serve)
    return JSONResponse(answer.body, answer.status, headers=answer.headers)


def get_job_page(
    session: Session,
    caller: Caller,
    *,
    limit: int,
    cursor: str | None,
    status: str | None,
    name: str | None,
    kind: str | None,
) -> Page[JobOut]:
    """Return one page of the caller's jobs."""
    rows = job_queries.list_page(
        session, caller.tenant_id, limit=limit + 1, before=cursor, status=status, name=name, kind=kind
    )
    shown = [service.make_job_out(session, row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(data=shown, has_more=more, next_cursor=shown[-1].id if more else None)


def _look(request: Request, job_id: str) -> tuple[str, JobOut]:
    with transaction() as session:
        caller = authenticate(request, session)
        caller.require("jobs:read")
        job = service.get_owned(session, caller, job_id)
        return f'W/"{job.version}"', service.make_job_out(session, job)
