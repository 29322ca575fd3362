"""Rules of jobs: creating and listing them, what users request of them, and their form in responses."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from structlog.contextvars import get_contextvars

from api.auth import Caller
from api.errors import ErrorCode, ServiceError, make_not_found_error
from api.schemas.jobs import JobOut, ProgressOut, StatusReason
from api.schemas.submissions import JobCreate
from api.services import estimates, retrained_models
from api.services.job_validation import UNKNOWN_CHAT_FACTS, validate_request
from api.services.queue_view import QueueView, view_queue
from soul_core.chat.template import ChatTemplate
from soul_core.spec import RETRAINED, JobKind
from soul_store import job_queries, job_state_machine, jobs, models
from soul_store.database import Session
from soul_store.job_status import JobStatus, list_allowed_actions
from soul_store.jobs import Scheduling
from soul_store.retrained_models import ensure_output_model
from soul_store.tables import Job

#: The service's functions that act on a job, by the name of the action.
_ACTIONS: Mapping[str, Callable[[Session, Job, str], Job]] = MappingProxyType(
    {"cancel": jobs.request_cancel, "pause": jobs.request_pause, "resume": jobs.resume}
)


def create(session: Session, caller: Caller, body: JobCreate, *, retry_of: Job | None = None) -> Job:
    """Queue a job, and the job that makes its retrained model if the body asks for one.

    Args:
        retry_of: The job that this one repeats.

    Raises:
        ServiceError: 404 or 422 naming every problem of the body; nothing is written then.
    """
    body = _pin_template_date(session, caller, body.with_complete_spec())
    request = validate_request(session, caller, body)
    if request.missing:
        raise ServiceError(ErrorCode.NOT_FOUND, request.missing[0].detail, problems=request.missing)
    if request.problems:
        count = len(request.problems)
        detail = request.problems[0].detail if count == 1 else f"the job has {count} problems: see 'errors'"
        raise ServiceError(ErrorCode.INVALID_JOB, detail, problems=request.problems)
    needs = estimates.find_needs(session, body, request)
    compared_models = {name: row.id for name, row in request.resolved_models.models.items()}
    retraining, is_reused = None, False
    if request.resolved_models.retrain_spec is not None:
        retraining, is_reused = retrained_models.find_or_create_retraining(
            session, caller, body, request.resolved_models, request.all_datasets, needs
        )
        if retraining.status == JobStatus.SUCCEEDED:
            compared_models[RETRAINED] = ensure_output_model(session, retraining).id
    log = request.resolved_models.log
    job = jobs.insert(
        session,
        tenant_id=caller.tenant_id,
        created_by=caller.key_id,
        name=body.name,
        kind=body.spec.kind,
        model_id=body.model_id,
        models=compared_models,
        retrained_log_id=log.id if log is not None else None,
        depends_on=retraining,
        datasets={**body.datasets, **request.prior_forget_sets.get_ids()},
        spec=body.spec.model_dump(mode="json"),
        spec_sha256=body.spec.compute_sha256(),
        request_id=get_contextvars().get("request_id"),
        scheduling=Scheduling(body.priority, body.deadline, body.max_gpu_seconds, needs),
        metadata=body.metadata,
        retry_of_job_id=retry_of.id if retry_of is not None else None,
    )
    messages = [_format_retraining(retraining, is_reused=is_reused)] if retraining is not None else []
    for message in (*messages, *request.prior_forget_sets.messages):
        job_state_machine.append_event(session, job, "log", {"message": message})
    return job


def _pin_template_date(session: Session, caller: Caller, body: JobCreate) -> JobCreate:
    """Set the day on which the chat template renders, if it may read the date: the job's numbers depend on it."""
    model = models.get(session, caller.tenant_id, body.model_id)
    own_template = body.spec.chat_template
    chat = (model.facts or {}).get("chat", UNKNOWN_CHAT_FACTS) if model else None
    if own_template is not None:
        asks_for_date = ChatTemplate(own_template).asks_for_date
    else:
        asks_for_date = chat is not None and chat["asks_for_date"]
    if body.spec.template_date is not None or not asks_for_date:
        return body
    return body.model_copy(update={"spec": body.spec.model_copy(update={"template_date": datetime.now(UTC).date()})})


def _format_retraining(retraining: Job, *, is_reused: bool) -> str:
    if retraining.status == JobStatus.SUCCEEDED:
        return f"the retrained model is the output of job {retraining.id}: same model, rows and settings"
    reason = " (reused: same model, rows and settings)" if is_reused else ""
    return f"waits for job {retraining.id}, which makes the retrained model{reason}"


def get_owned(session: Session, caller: Caller, job_id: str, *, kind: JobKind | None = None) -> Job:
    """Return the caller's job. Raises 404, also for another tenant's."""
    job = job_queries.get(session, caller.tenant_id, job_id)
    if job is None or (kind is not None and job.kind != kind):
        raise make_not_found_error(f"{'evaluation' if kind == JobKind.EVALUATE else 'job'} {job_id}")
    return job


def list_page(
    session: Session,
    caller: Caller,
    *,
    limit: int,
    before: str | None,
    status: JobStatus | None = None,
    name: str | None = None,
    kind: JobKind | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[Job]:
    """Return the caller's jobs, newest first, at most `limit`, older than the id `before`."""
    return job_queries.list_page(
        session, caller.tenant_id, limit=limit, before=before, status=status, name=name, kind=kind, metadata=metadata
    )


def act(session: Session, caller: Caller, job: Job, action: str) -> Job:
    """Cancel, pause or resume a job, or request it if the job runs. Raises 409 if its status does not allow it."""
    try:
        return _ACTIONS[action](session, job, caller.key_id)
    except job_state_machine.ActionNotAllowedError as error:
        raise make_not_allowed_error(error) from error


def make_not_allowed_error(error: job_state_machine.ActionNotAllowedError) -> ServiceError:
    """Return the 409 of an action that the job's status does not allow."""
    actions = list(error.allowed_actions)
    return ServiceError(ErrorCode.NOT_ALLOWED, str(error), job_status=error.status, allowed_actions=actions)


def make_job_out(session: Session, job: Job) -> JobOut:
    """Return a job as responses contain it."""
    return _make_out(job, view_queue(session, [job]))


def make_jobs_out(session: Session, rows: Sequence[Job]) -> list[JobOut]:
    """Return jobs as responses contain them. The queue is read once for all of them."""
    view = view_queue(session, rows)
    return [_make_out(job, view) for job in rows]


def _make_out(job: Job, view: QueueView) -> JobOut:
    progress: dict[str, Any] = {**job.progress, "queue_position": view.positions.get(job.id)}
    waiting_reason = view.find_waiting_reason(job)
    status_reason = job.status_reason or waiting_reason
    path = f"/v1/jobs/{job.id}"
    links = {"self": path, "events": f"{path}/events", "stream": f"{path}/events/stream", "metrics": f"{path}/metrics"}
    links["logs"] = f"{path}/logs"
    if job.report_blob is not None:
        links |= {"report": f"{path}/report", "artifacts": f"{path}/artifacts"}
    return JobOut(
        id=job.id,
        name=job.name,
        kind=job.kind,
        status=job.status,
        phase=job.phase,
        verdict=job.verdict,
        requested_action=job.requested_action,
        status_reason=StatusReason(**status_reason) if status_reason else None,
        warnings=[waiting_reason["message"]] if waiting_reason else [],
        allowed_actions=list(list_allowed_actions(job.status, job.requested_action)),
        priority=job.priority,
        deadline=job.deadline,
        max_gpu_seconds=job.max_gpu_seconds,
        metadata=job.user_metadata,
        required_memory_bytes=job.required_memory_bytes,
        retry_of_job_id=job.retry_of_job_id,
        progress=ProgressOut(**progress),
        attempt=job.attempt,
        model_id=job.model_id,
        models=job.models,
        retrained_log_id=job.retrained_log_id,
        depends_on_job_id=job.depends_on_job_id,
        datasets=job.datasets,
        spec=job.spec,
        spec_sha256=job.spec_sha256,
        usage=job.usage,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
        links=links,
    )
