"""A job's report in the form a reader wants: the JSON it is, the page, or the page as PDF."""

from api.errors import ServiceError
from soul_core.outputs.layout import REPORT, REPORT_PAGE
from soul_store.blobs import get_blob_store
from soul_store.tables import Job

JSON, HTML, PDF = "application/json", "text/html", "application/pdf"


def choose_media_type(accept: str) -> str:
    """Return the first form that an Accept header names; JSON when it names none."""
    named = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return next((media for media in named if media in {JSON, HTML, PDF}), JSON)


def render_report(job: Job, media_type: str) -> bytes:
    """Return the report. Raises 409 before there is one, 501 where this server cannot make a PDF."""
    if job.report_blob is None:
        raise ServiceError(409, "no_report", f"job {job.id} has no report: it is {job.status}", job_status=job.status)
    page_key = job.report_blob.removesuffix(REPORT) + REPORT_PAGE
    key = job.report_blob if media_type == JSON else page_key
    with get_blob_store().open(key) as content:
        body = content.read()
    return _pdf(body.decode()) if media_type == PDF else body


def _pdf(page: str) -> bytes:
    from soul_core.rendering.pdf import PdfUnavailable, render_pdf  # its libraries take a second to load

    try:
        return render_pdf(page)
    except PdfUnavailable as error:
        raise ServiceError(501, "pdf_unavailable", str(error)) from error
