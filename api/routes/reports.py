"""The report of a job, as JSON, HTML page or PDF."""

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import Response

from api.deps import OwnedJob
from api.error_handlers import make_problem_responses
from api.services.reports import HTML, JSON, PDF, choose_media_type, render_report

router = APIRouter(prefix="/v1", tags=["results"])


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
        **make_problem_responses({501: "This server cannot make a PDF; `detail` names what it lacks."}),
    },
)
def get_report(job: OwnedJob, accept: Annotated[str, Header()] = JSON) -> Response:
    """Return the report as JSON (its schema: GET /v1/schemas/report), as a page for `Accept: text/html`, or as the same
    page in PDF for `Accept: application/pdf`.
    """
    media_type = choose_media_type(accept)
    headers = {"Vary": "Accept"}
    if media_type == HTML:  # the page is self-contained: no script may run and nothing may load
        headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if media_type == PDF:
        headers["Content-Disposition"] = f'inline; filename="report-{job.id}.pdf"'
    return Response(render_report(job, media_type), headers=headers, media_type=media_type)
