"""Evaluations over HTTP: an audit of models, without changing any. They are jobs of kind evaluate by another name."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response

from api.deps import Cursor, JobsReader, JobsWriter, Limit, SessionDep
from api.routes.jobs import ACCEPTED, get_job_page, submit_job
from api.schemas.jobs import JobOut, JobStatus, Page
from api.schemas.submissions import EvaluationCreate
from api.services import jobs as service

router = APIRouter(prefix="/v1", tags=["evaluations"])


@router.post(
    "/evaluations", status_code=202, operation_id="create_evaluation", response_model=JobOut, responses=ACCEPTED
)
def create_evaluation(
    body: EvaluationCreate,
    caller: JobsWriter,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None, Header(description="Any unique text: a request sent twice with it makes one evaluation.")
    ] = None,
) -> Response:
    """Measure a model, and others beside it, on any data sets, with any metrics and attacks. It is a job like others:
    cancel it, follow it and fetch its files under /v1/jobs.
    """
    return submit_job(session, caller, body, idempotency_key, collection_path="/v1/evaluations")


@router.get("/evaluations", operation_id="list_evaluations")
def list_evaluations(
    caller: JobsReader,
    session: SessionDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Annotated[JobStatus | None, Query(description="Only evaluations of this status.")] = None,
    name: Annotated[str | None, Query(description="Only evaluations of this name.")] = None,
) -> Page[JobOut]:
    """List evaluations, newest first."""
    return get_job_page(session, caller, limit=limit, cursor=cursor, status=status, name=name, kind="evaluate")


@router.get("/evaluations/{evaluation_id}", operation_id="get_evaluation")
def get_evaluation(
    caller: JobsReader, session: SessionDep, evaluation_id: Annotated[str, Path(examples=["job_01k9"])]
) -> JobOut:
    """Return one evaluation, with links to its report and files."""
    return service.make_job_out(session, service.get_owned(session, caller, evaluation_id, kind="evaluate"))
