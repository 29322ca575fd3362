"""A job's report in the media type that a client accepts: JSON, an HTML page, or the page as PDF."""

from api.errors import ErrorCode, ServiceError
from soul_core.outputs.layout import REPORT, REPORT_PAGE
from soul_store.blobs import get_blob_store
from soul_store.tables import Job

JSON, HTML, PDF = "application/json", "text/html", "application/pdf"


def choose_media_type(accept: str) -> str:
    """Return the first media type of an Accept header that there is; JSON if it names none."""
    accepted = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return next((media_type for media_type in accepted if media_type in {JSON, HTML, PDF}), JSON)


def render_report(job: Job, media_type: str) -> bytes:
    """Return the report. Raises 409 before there is one, 501 if this server cannot make a PDF."""
    if job.report_blob is None:
        detail = f"job {job.id} has no report: its status is {job.status}"
        raise ServiceError(ErrorCode.NO_REPORT, detail, job_status=job.status)
    page_key = job.report_blob.removesuffix(REPORT) + REPORT_PAGE
    key = job.report_blob if media_type == JSON else page_key
    with get_blob_store().open(key) as content:
        body = content.read()
    if media_type != PDF:
        return body
    from soul_core.rendering.pdf import PdfUnavailable, render_pdf  # its libraries take a second to load

    try:
        return render_pdf(body.decode())
    except PdfUnavailable as error:
        raise ServiceError(ErrorCode.PDF_UNAVAILABLE, str(error)) from error
