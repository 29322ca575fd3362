"""Rules of retries: a failed or cancelled job is submitted again as a new job, from what its row says."""

from typing import Any

from api.auth import Caller
from api.schemas.submissions import JobCreate, JobRetry
from api.services import jobs as job_service
from soul_core.spec import RETRAINED, JobKind, JobSpec
from soul_store import jobs
from soul_store.database import Session
from soul_store.job_state_machine import ActionNotAllowedError
from soul_store.tables import Job


def retry(session: Session, caller: Caller, job: Job, changes: JobRetry) -> Job:
    """Submit a failed or cancelled job again; return its unfinished retry instead, if there is one.

    Raises:
        ServiceError: 409 if the job has not failed and was not cancelled; 404 or 422 if what it was made of no longer
            exists, or its deadline has passed.
    """
    try:
        unfinished = jobs.lock_for_retry(session, job, caller.key_id)
    except ActionNotAllowedError as error:
        raise job_service.make_not_allowed_error(error) from error
    if unfinished is not None:
        return unfinished
    return job_service.create(session, caller, _make_body(session, job, changes), retry_of=job)


def _make_body(session: Session, job: Job, changes: JobRetry) -> JobCreate:
    """Return the body that submits the job again."""
    scheduling = {"priority": job.priority, "deadline": job.deadline, "max_gpu_seconds": job.max_gpu_seconds}
    return JobCreate(
        name=job.name,
        model_id=job.model_id,
        datasets=job.datasets,
        spec=JobSpec.model_validate(job.spec),
        metadata=job.user_metadata,
        **_describe_models(session, job),
        **{**scheduling, **changes.model_dump(exclude_unset=True)},
    )


def _describe_models(session: Session, job: Job) -> dict[str, Any]:
    """Return the body's `models` and `retrained`; a model that another job was to make is asked for again."""
    if job.retrained_log_id is not None:
        return {"models": job.models, "retrained": {"kind": "log", "artifact_id": job.retrained_log_id}}
    if job.depends_on_job_id is None:
        return {"models": job.models}
    retraining = session.get_one(Job, job.depends_on_job_id)
    assert retraining.kind == JobKind.FINETUNE
    settings = {name: retraining.spec[name] for name in ("training", "optimizer")}
    models = {name: model_id for name, model_id in job.models.items() if name != RETRAINED}
    return {"models": models, "retrained": {"kind": "retrain", "model_id": retraining.model_id, **settings}}
