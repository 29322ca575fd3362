"""Rules of what a job made: who may have which file."""

from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError, make_not_found_error
from api.services import jobs
from soul_core.outputs.layout import LOGS, MANIFEST, REPORT, REPORT_PAGE, is_in_folder
from soul_core.report import Verdict
from soul_store import job_queries
from soul_store.tables import Artifact, AuditEntry, Job

#: For every reader of the job; all else (checkpoint, adapter, whatever may come) counts as the model.
_FOR_ALL_READERS = frozenset({REPORT, REPORT_PAGE, MANIFEST})


def list_artifacts(session: Session, job: Job) -> list[Artifact]:
    """Return the files of a job. Raises 409 before there are any."""
    if job.report_blob is None:
        raise ServiceError(
            409, "no_artifacts", f"job {job.id} has made no files: it is {job.status}", job_status=job.status
        )
    return job_queries.list_artifacts(session, job.id)


def authorize_download(session: Session, caller: Caller, artifact_id: str) -> Artifact:
    """Return a file the caller may download; use of an unverified model is written to the audit log."""
    made = job_queries.get_artifact(session, caller.tenant_id, artifact_id)
    if made is None:
        raise make_not_found_error(f"artifact {artifact_id}")
    if made.path in _FOR_ALL_READERS or is_in_folder(made.path, LOGS):
        caller.require("jobs:read")
        return made
    job = jobs.get_owned(session, caller, made.job_id)
    if job.verdict == Verdict.PASSED:
        caller.require("models:download")
        return made
    if not caller.has_scope("models:download_unverified"):
        raise ServiceError(
            403,
            "unverified_model",
            f"the verdict of job {job.id} is '{job.verdict}', not '{Verdict.PASSED}': its weights need the scope "
            "models:download_unverified",
            scope="models:download_unverified",
        )
    entry = AuditEntry(
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        action="artifact.download_unverified",
        resource=made.id,
        data={"job_id": job.id, "path": made.path, "verdict": job.verdict},
    )
    session.add(entry)
    return made
