"""Evaluations: audits of models, which change none. They are the jobs of kind evaluate."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response

from api.deps import Cursor, JobsReader, JobsWriter, Limit, SessionDep
from api.routes.job_filters import METADATA_PARAMETER, MetadataFilter
from api.routes.jobs import ACCEPTED, make_job_page, serve_creation
from api.schemas.common import Page
from api.schemas.jobs import JobOut
from api.schemas.submissions import EvaluationCreate
from api.services import jobs as service
from soul_core.spec import JobKind
from soul_store.job_status import JobStatus

router = APIRouter(prefix="/v1", tags=["evaluations"])


@router.post(
    "/evaluations", status_code=202, operation_id="create_evaluation", response_model=JobOut, responses=ACCEPTED
)
def create_evaluation(
    body: EvaluationCreate,
    caller: JobsWriter,
    session: SessionDep,
    idempotency_key: Annotated[
        str | None, Header(description="Any unique text: requests with the same key create one evaluation.")
    ] = None,
) -> Response:
    """Evaluate one or more models on any data sets, with any metrics and attacks.

    An evaluation is a job: cancel it, follow it and fetch its files under /v1/jobs.
    """
    return serve_creation(session, caller, body, idempotency_key, collection_path="/v1/evaluations")


@router.get("/evaluations", operation_id="list_evaluations", openapi_extra=METADATA_PARAMETER)
def list_evaluations(
    caller: JobsReader,
    session: SessionDep,
    metadata: MetadataFilter,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: Annotated[JobStatus | None, Query(description="Only evaluations of this status.")] = None,
    name: Annotated[str | None, Query(description="Only evaluations of this name.")] = None,
) -> Page[JobOut]:
    """List evaluations, newest first."""
    return make_job_page(
        session, caller, limit, cursor, status=status, name=name, kind=JobKind.EVALUATE, metadata=metadata
    )


@router.get("/evaluations/{evaluation_id}", operation_id="get_evaluation")
def get_evaluation(
    caller: JobsReader, session: SessionDep, evaluation_id: Annotated[str, Path(examples=["job_01k9"])]
) -> JobOut:
    """Return an evaluation, with links to its report and files."""
    return service.make_job_out(session, service.get_owned(session, caller, evaluation_id, kind=JobKind.EVALUATE))
