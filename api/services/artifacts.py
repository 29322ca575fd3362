"""Rules of artifacts: which caller may download which file of a job."""

from datetime import UTC, datetime, timedelta

from api.auth import Caller
from api.errors import ErrorCode, ServiceError, make_not_found_error
from api.services import jobs
from soul_core.outputs.layout import LOGS, MANIFEST, REPORT, REPORT_PAGE, is_in_folder
from soul_core.report import Verdict
from soul_store import audit, job_queries
from soul_store.blobs import get_blob_store
from soul_store.database import Session
from soul_store.settings import get_settings
from soul_store.tables import Artifact, Job

#: For every reader of the job; all other files (checkpoint, adapter, ...) count as the model.
_FILES_FOR_READERS = frozenset({REPORT, REPORT_PAGE, MANIFEST})
_UNVERIFIED_SCOPE = "models:download_unverified"


def list_artifacts(session: Session, job: Job) -> list[Artifact]:
    """Return the files of a job. Raises 409 before it has made any."""
    if job.report_blob is None:
        detail = f"job {job.id} has made no files: its status is {job.status}"
        raise ServiceError(ErrorCode.NO_ARTIFACTS, detail, job_status=job.status)
    return job_queries.list_artifacts(session, job.id)


def authorize_download(session: Session, caller: Caller, artifact_id: str) -> Artifact:
    """Return a file that the caller may download; the download of an unverified model is written to the audit log."""
    artifact = job_queries.get_artifact(session, caller.tenant_id, artifact_id)
    if artifact is None:
        raise make_not_found_error(f"artifact {artifact_id}")
    if artifact.path in _FILES_FOR_READERS or is_in_folder(artifact.path, LOGS):
        caller.require("jobs:read")
        return artifact
    job = jobs.get_owned(session, caller, artifact.job_id)
    if job.verdict == Verdict.PASSED:
        caller.require("models:download")
        return artifact
    if not caller.has_scope(_UNVERIFIED_SCOPE):
        detail = f"the verdict of job {job.id} is '{job.verdict}': its weights need the scope {_UNVERIFIED_SCOPE}"
        raise ServiceError(ErrorCode.UNVERIFIED_MODEL, detail, scope=_UNVERIFIED_SCOPE)
    audit.insert(
        session,
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        action="artifact.download_unverified",
        resource=artifact.id,
        data={"job_id": job.id, "path": artifact.path, "verdict": job.verdict},
    )
    return artifact


def make_download_url(artifact: Artifact) -> tuple[str, datetime] | None:
    """Return a URL of the object store and its expiry; None if the service itself has to send the file."""
    settings = get_settings()
    if settings.blobs_download == "proxy":
        return None
    seconds = settings.download_url_seconds
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    url = get_blob_store().make_download_url(artifact.blob, seconds=seconds)
    return None if url is None else (url, expires_at)


def require_download_url(artifact: Artifact) -> tuple[str, datetime]:
    """Return what `make_download_url` returns. Raises 409 where there is no such URL."""
    made = make_download_url(artifact)
    if made is None:
        detail = f"this service has no URLs of an object store: download from /v1/artifacts/{artifact.id}/content"
        raise ServiceError(ErrorCode.NO_DOWNLOAD_URL, detail)
    return made
