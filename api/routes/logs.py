"""The log of a job over HTTP, as JSON lines."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.deps import OwnedJob, SessionDep
from api.schemas.logs import LogLineOut
from api.services import logs as service

router = APIRouter(prefix="/v1", tags=["results"])

JSON_LINES = "application/jsonl"


@router.get(
    "/jobs/{job_id}/logs",
    operation_id="get_job_logs",
    response_class=Response,
    responses={200: {"content": {JSON_LINES: {"schema": LogLineOut.model_json_schema()}}}},
)
def get_logs(
    job: OwnedJob,
    session: SessionDep,
    attempt: Annotated[int | None, Query(ge=1, description="Only the lines of this attempt.")] = None,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="Only lines with a larger `seq`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of lines.")] = 1000,
    tail: Annotated[int | None, Query(ge=1, le=1000, description="Only the last lines, this many.")] = None,
) -> Response:
    """Return the log of a job, one JSON object per line: what its worker, its engine and their libraries wrote.

    It is current while the job runs. Texts of the data sets are never in it. An attempt keeps a limited number of
    lines, its first and its last; a line between them gives the number of lines that were left out.
    """
    lines = service.list_lines(session, job, attempt=attempt, after=after, limit=limit, tail=tail)
    content = "".join(line.model_dump_json() + "\n" for line in lines)
    return Response(content, media_type=JSON_LINES, headers={"Cache-Control": "no-store"})
