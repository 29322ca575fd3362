"""What users and the maintenance process do to jobs: insert, cancel, pause, resume, requeue, resend.

`job_queries` reads them, `job_queue` orders queued jobs.
Row, event, audit entry and outbox entry are written in the caller's transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from soul_core.spec import JobKind
from soul_store import audit
from soul_store import job_state_machine as states
from soul_store.ids import new_id
from soul_store.job_priority import JobPriority
from soul_store.job_status import TERMINAL_STATUSES, JobStatus, list_allowed_actions
from soul_store.placement import JobNeeds
from soul_store.tables import Job, OutboxEntry


@dataclass(frozen=True)
class Scheduling:
    """How a job waits and how long it may take: what its user asked for, and what it needs of a worker."""

    priority: JobPriority = JobPriority.NORMAL
    deadline: datetime | None = None
    max_gpu_seconds: float | None = None
    needs: JobNeeds = field(default_factory=JobNeeds)


def insert(
    session: Session,
    *,
    tenant_id: str,
    created_by: str,
    name: str,
    model_id: str,
    datasets: dict[str, str],
    spec: dict[str, Any],
    spec_sha256: str,
    kind: JobKind = JobKind.UNLEARN,
    models: Mapping[str, str] = MappingProxyType({}),
    retrained_log_id: str | None = None,
    depends_on: Job | None = None,
    request_id: str | None = None,
    scheduling: Scheduling = Scheduling(),
    metadata: Mapping[str, str] = MappingProxyType({}),
    retry_of_job_id: str | None = None,
) -> Job:
    """Write a queued job with its first event, its audit entry and the message that will start it.

    `depends_on` is a job whose row the caller has locked: the message is sent when that job has succeeded.
    """
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        created_by=created_by,
        name=name,
        kind=kind,
        model_id=model_id,
        models=dict(models),
        retrained_log_id=retrained_log_id,
        depends_on_job_id=depends_on.id if depends_on is not None else None,
        datasets=dict(datasets),
        spec=spec,
        spec_sha256=spec_sha256,
        request_id=request_id,
        retry_of_job_id=retry_of_job_id,
        priority=scheduling.priority,
        deadline=scheduling.deadline,
        max_gpu_seconds=scheduling.max_gpu_seconds,
        accelerator=scheduling.needs.accelerator,
        required_memory_bytes=scheduling.needs.memory_bytes,
        user_metadata=dict(metadata),
        status=JobStatus.QUEUED,
    )
    session.add(job)
    session.flush()
    session.refresh(job)
    states.append_event(session, job, "status", {"status": JobStatus.QUEUED})
    if depends_on is None or depends_on.status == JobStatus.SUCCEEDED:
        session.add(OutboxEntry(task=states.RUN_JOB_TASK, payload={"job_id": job.id}))
    audit.insert(session, tenant_id=tenant_id, actor=created_by, action="job.create", resource=job.id)
    return job


def request_cancel(session: Session, job: Job, actor: str) -> Job:
    """End a job that waits at once; record the request for one that runs.

    Raises:
        ActionNotAllowedError: The job has finished.
    """
    _lock_for_action(session, job, "cancel", actor)
    if job.status == JobStatus.RUNNING:
        _request_action(session, job, "cancel")
    else:
        began = "while it was paused" if job.status == JobStatus.PAUSED else "before it ran"
        reason = states.make_status_reason("cancelled", f"cancelled {began}")
        states.transition(session, job, JobStatus.CANCELLED, status_reason=reason)
    return job


def request_pause(session: Session, job: Job, actor: str) -> Job:
    """Pause a job that waits at once; record the request for one that runs, which writes a checkpoint first.

    Raises:
        ActionNotAllowedError: The job has finished, is paused already, or is to be cancelled.
    """
    _lock_for_action(session, job, "pause", actor)
    if job.status == JobStatus.RUNNING:
        _request_action(session, job, "pause")
    else:
        reason = states.make_status_reason("paused", "paused while it waited; resume it, and it waits again")
        states.transition(session, job, JobStatus.PAUSED, status_reason=reason)
    return job


def resume(session: Session, job: Job, actor: str) -> Job:
    """Queue a paused job again, or withdraw the requested pause of a running one.

    Raises:
        ActionNotAllowedError: The job is not paused.
    """
    _lock_for_action(session, job, "resume", actor)
    if job.status == JobStatus.RUNNING:
        _request_action(session, job, None)
        return job
    states.transition(session, job, JobStatus.QUEUED, status_reason=None, next_attempt_at=None, sent_at=None)
    job.queued_at = func.clock_timestamp()
    session.add(OutboxEntry(task=states.RUN_JOB_TASK, payload={"job_id": job.id}))
    session.flush()
    session.refresh(job)
    return job


def lock_for_retry(session: Session, job: Job, actor: str) -> Job | None:
    """Lock a job that is to be submitted again; return its unfinished retry, if there is one.

    Raises:
        ActionNotAllowedError: The job has not finished, or it succeeded.
    """
    _lock_for_action(session, job, "retry", actor)
    query = select(Job).where(Job.retry_of_job_id == job.id, Job.status.not_in(TERMINAL_STATUSES))
    return session.scalar(query.order_by(Job.id).limit(1))


def _lock_for_action(session: Session, job: Job, action: str, actor: str) -> None:
    """Lock the job's row and record who acts; raise ActionNotAllowedError if its status does not allow the action."""
    session.refresh(job, with_for_update=True)
    if action not in list_allowed_actions(job.status, job.requested_action):
        raise states.ActionNotAllowedError(job, action)
    audit.insert(session, tenant_id=job.tenant_id, actor=actor, action=f"job.{action}", resource=job.id)


def _request_action(session: Session, job: Job, action: str | None) -> None:
    if job.requested_action != action:
        job.requested_action = action
        job.version += 1
        states.append_event(session, job, "requested_action", {"requested_action": action})


def fail_overdue(session: Session) -> list[str]:
    """End the waiting and paused jobs whose deadline has passed. Returns their ids. Workers end those that run."""
    waits = (JobStatus.AWAITING_APPROVAL, JobStatus.QUEUED, JobStatus.PAUSED)
    is_overdue = (Job.deadline < func.clock_timestamp(), Job.finished_at.is_(None), Job.status.in_(waits))
    overdue = list(session.scalars(select(Job).where(*is_overdue).with_for_update(skip_locked=True)))
    for job in overdue:
        progress = "finished" if job.claimed_at is not None else "started"
        states.transition(session, job, JobStatus.FAILED, status_reason=states.make_deadline_reason(job, progress))
    return [job.id for job in overdue]


def requeue_stalled(session: Session, *, max_attempts: int) -> list[str]:
    """Requeue the jobs whose lease has expired, by the database's clock. Returns their ids."""
    expired = select(Job).where(Job.status == JobStatus.RUNNING, Job.lease_until < func.clock_timestamp())
    stalled = list(session.scalars(expired.with_for_update(skip_locked=True)))
    for job in stalled:
        job.usage = _add_lost_seconds(job)
        message = f"worker {job.worker} stopped responding"
        states.retry_or_fail(
            session, job, states.make_status_reason("worker_lost", message, retryable=True), max_attempts
        )
    return [job.id for job in stalled]


def _add_lost_seconds(job: Job) -> dict[str, Any]:
    """Return the job's usage with the seconds of an attempt whose worker could not report them."""
    assert job.claimed_at is not None
    assert job.lease_until is not None
    seconds = max(0.0, (job.lease_until - job.claimed_at).total_seconds())
    return {**job.usage, "engine_seconds": round(job.usage.get("engine_seconds", 0.0) + seconds, 3)}


def resend_job_messages(session: Session, *, num_waiting_messages: int, silent_seconds: float) -> list[str]:
    """Write new messages for queued jobs whose message the broker may have lost. Returns the jobs' ids.

    Only when the broker holds fewer messages than jobs wait; an extra message is harmless (`claim` finds no job).
    """
    num_due = session.scalar(select(func.count()).select_from(Job).where(states.is_due())) or 0
    if num_due <= num_waiting_messages:
        return []
    cutoff = func.clock_timestamp() - states.make_interval(silent_seconds)
    was_not_sent_lately = or_(Job.sent_at.is_(None), Job.sent_at < cutoff)
    # the message of a new job is still in the outbox
    query = select(Job).where(states.is_due(), was_not_sent_lately, Job.updated_at < cutoff)
    query = query.order_by(Job.id).limit(1000).with_for_update(skip_locked=True)
    jobs = list(session.scalars(query))
    for job in jobs:
        session.add(OutboxEntry(task=states.RUN_JOB_TASK, payload={"job_id": job.id}))
        job.sent_at = func.clock_timestamp()
    session.flush()
    return [job.id for job in jobs]
