"""What users and the maintenance process do to jobs: insert, cancel, requeue, resend. `job_queries` reads them.

Row, event, audit entry and outbox entry are written in the caller's transaction.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from soul_core.spec import JobKind
from soul_store import audit
from soul_store import job_state_machine as states
from soul_store.ids import new_id
from soul_store.job_status import JobStatus
from soul_store.tables import Job, OutboxEntry


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
    session.refresh(job, with_for_update=True)
    if "cancel" not in job.status.allowed_actions:
        raise states.ActionNotAllowedError(job.status, "cancel")
    if job.status == JobStatus.RUNNING:
        if job.requested_action != "cancel":
            job.requested_action = "cancel"
            job.version += 1
            states.append_event(session, job, "requested_action", {"requested_action": "cancel"})
    else:
        reason = states.make_status_reason("cancelled", "cancelled before it ran")
        states.transition(session, job, JobStatus.CANCELLED, status_reason=reason)
    audit.insert(session, tenant_id=job.tenant_id, actor=actor, action="job.cancel", resource=job.id)
    session.flush()
    return job


def requeue_stalled(session: Session, *, max_attempts: int) -> list[str]:
    """Requeue the jobs whose lease has expired, by the database's clock. Returns their ids."""
    expired = select(Job).where(Job.status == JobStatus.RUNNING, Job.lease_until < func.clock_timestamp())
    stalled = list(session.scalars(expired.with_for_update(skip_locked=True)))
    for job in stalled:
        message = f"worker {job.worker} stopped responding"
        states.retry_or_fail(
            session, job, states.make_status_reason("worker_lost", message, retryable=True), max_attempts
        )
    return [job.id for job in stalled]


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
