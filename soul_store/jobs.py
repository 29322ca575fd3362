"""What users and the keeper do to jobs: create, cancel, take back, send again. States are `job_states.py`'s.

Row, event, audit entry and outbox entry are written in the caller's transaction.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from soul_store import job_state_machine as states
from soul_store.ids import new_id
from soul_store.tables import AuditEntry, Job, OutboxEntry


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
    kind: str = "unlearn",
    models: Mapping[str, str] = MappingProxyType({}),
    retrained_log_id: str | None = None,
    depends_on: Job | None = None,
    request_id: str | None = None,
) -> Job:
    """Write a queued job with its first event, its audit entry and the message that will start it.

    `after` is a job whose row the caller holds: the message waits until that one has succeeded.
    """
    waits = depends_on is not None and depends_on.status != "succeeded"
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
        status="queued",
    )
    session.add(job)
    session.flush()
    session.refresh(job)
    states.append_event(session, job, "status", {"status": "queued"})
    if not waits:
        session.add(OutboxEntry(task=states.RUN_JOB_TASK, payload={"job_id": job.id}))
    session.add(AuditEntry(tenant_id=tenant_id, actor=created_by, action="job.create", resource=job.id))
    return job


def request_cancel(session: Session, job: Job, actor: str) -> Job:
    """End a waiting job at once; wish a running one cancelled. Raises NotAllowed for a terminal one."""
    session.refresh(job, with_for_update=True)
    if "cancel" not in states.get_allowed_actions(job.status):
        raise states.ActionNotAllowed(job.status, "cancel")
    if job.status == "running":
        if job.requested_action != "cancel":
            job.requested_action = "cancel"
            job.version += 1
            states.append_event(session, job, "requested_action", {"requested_action": "cancel"})
    else:
        states.transition(
            session, job, "cancelled", status_reason=states.make_status_reason("cancelled", "cancelled before it ran")
        )
    session.add(AuditEntry(tenant_id=job.tenant_id, actor=actor, action="job.cancel", resource=job.id))
    session.flush()
    return job


def requeue_stalled(session: Session, *, max_attempts: int) -> list[str]:
    """Take back the jobs whose lease ran out, at the database's clock. Returns their ids."""
    expired = select(Job).where(Job.status == "running", Job.lease_until < func.clock_timestamp())
    lost = list(session.scalars(expired.with_for_update(skip_locked=True)))
    for job in lost:
        silent = states.make_status_reason("worker_lost", f"worker {job.worker} fell silent", retryable=True)
        states.retry_or_fail(session, job, silent, max_attempts)
    return [job.id for job in lost]


def resend_job_messages(session: Session, *, num_waiting_messages: int, silent_seconds: float) -> list[str]:
    """Write messages anew for queued jobs the broker may have forgotten. Returns their ids.

    Only when the broker holds fewer messages than jobs wait; a message too many is harmless (`claim` finds nothing).
    """
    waiting = session.scalar(select(func.count()).select_from(Job).where(states.is_due())) or 0
    if waiting <= num_waiting_messages:
        return []
    silent = or_(Job.sent_at.is_(None), Job.sent_at < func.clock_timestamp() - states.make_interval(silent_seconds))
    # a fresh job's own message is still in the outbox
    old = Job.updated_at < func.clock_timestamp() - states.make_interval(silent_seconds)
    query = select(Job).where(states.is_due(), silent, old).order_by(Job.id).limit(1000)
    forgotten = list(session.scalars(query.with_for_update(skip_locked=True)))
    for job in forgotten:
        session.add(OutboxEntry(task=states.RUN_JOB_TASK, payload={"job_id": job.id}))
        job.sent_at = func.clock_timestamp()
    session.flush()
    return [job.id for job in forgotten]
