"""The state machine of jobs: nothing else writes a job's status.

Row, event and outbox entry are written in the caller's transaction. The statuses are in `job_status`; `jobs` has what
users and the maintenance process do to a job, `job_leases` what a worker does.
"""

from typing import Any

from sqlalchemy import Interval, and_, cast, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from soul_core.spec import RETRAINED
from soul_store import retrained_models
from soul_store.job_status import TRANSITIONS, JobStatus, list_allowed_actions
from soul_store.tables import Job, JobEvent, OutboxEntry

RUN_JOB_TASK = "worker.tasks.run_job"


class ActionNotAllowedError(Exception):
    """The job's status does not allow the action."""

    def __init__(self, job: Job, action: str) -> None:
        requested = f", with a requested {job.requested_action}" if job.requested_action else ""
        super().__init__(f"cannot {action} a job that is {job.status}{requested}")
        self.status = job.status
        self.allowed_actions = list_allowed_actions(job.status, job.requested_action)


def transition(session: Session, job: Job, status: str, **values: Any) -> None:
    """Change the status, and the columns in `values`. No other line of the service changes a status."""
    status = JobStatus(status)
    if status not in TRANSITIONS[job.status]:
        msg = f"{job.id}: {job.status} -> {status} is not in the transition table"
        raise AssertionError(msg)
    job.status = status
    for name, value in values.items():
        setattr(job, name, value)
    if status != JobStatus.RUNNING:
        job.lease_until = None
        job.worker = None
    if status.is_terminal:
        job.finished_at = func.clock_timestamp()
    if status.is_terminal or status == JobStatus.PAUSED:
        job.requested_action = None
        job.progress = {}
        job.phase = None
    job.version += 1
    job.updated_at = func.clock_timestamp()
    if status == JobStatus.RUNNING:  # the row's constraint requires a lease with this status
        job.lease_until = func.clock_timestamp()
        job.claimed_at = func.clock_timestamp()
    session.flush()
    data = {"status": status, "epoch": job.epoch}
    if job.verdict is not None:
        data["verdict"] = job.verdict
    if job.status_reason is not None:
        data["reason"] = job.status_reason
    append_event(session, job, "status", data)
    if status.is_terminal:
        _release_waiting_jobs(session, job)


def is_due() -> Any:
    """Return the condition under which a job may be claimed: queued, its time has come, its dependency succeeded."""
    dependency = aliased(Job)
    has_succeeded = (
        select(dependency.id)
        .where(dependency.id == Job.depends_on_job_id, dependency.status == JobStatus.SUCCEEDED)
        .exists()
    )
    in_time = or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= func.clock_timestamp())
    return and_(Job.status == JobStatus.QUEUED, in_time, or_(Job.depends_on_job_id.is_(None), has_succeeded))


def requeue(session: Session, job: Job, status_reason: dict[str, Any], *, delay_seconds: float = 0) -> None:
    """Put a running job back in the queue; pause or end it instead if its owner requested that."""
    if job.requested_action == "cancel":
        reason = make_status_reason("cancelled", "cancelled while it ran")
        transition(session, job, JobStatus.CANCELLED, status_reason=reason)
        return
    if job.requested_action == "pause":
        message = "paused while it ran; resume it, and it continues from its last checkpoint"
        transition(session, job, JobStatus.PAUSED, status_reason=make_status_reason("paused", message))
        return
    transition(session, job, JobStatus.QUEUED, status_reason=status_reason, phase=None, progress={})
    session.execute(
        update(Job).where(Job.id == job.id).values(next_attempt_at=make_time_from_now(delay_seconds), sent_at=None)
    )
    if delay_seconds == 0:  # the maintenance process sends the message of a delayed one when it is due
        session.add(OutboxEntry(task=RUN_JOB_TASK, payload={"job_id": job.id}))
    session.flush()


def retry_or_fail(session: Session, job: Job, status_reason: dict[str, Any], max_attempts: int) -> None:
    """Count a failed attempt: requeue after a delay, fail after the last attempt, cancel if that was requested."""
    job.attempt += 1
    if job.attempt >= max_attempts and job.requested_action != "cancel":
        message = f"{status_reason['message']}; attempt {job.attempt} of at most {max_attempts}, so the job failed"
        transition(session, job, JobStatus.FAILED, status_reason={**status_reason, "message": message})
    else:
        requeue(session, job, status_reason, delay_seconds=0 if job.attempt == 1 else 2.0**job.attempt)


def append_event(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    """Append an event. The caller has locked the job's row, so `seq` has neither gaps nor duplicates."""
    session.flush()
    seq = select(func.coalesce(func.max(JobEvent.seq), 0) + 1).where(JobEvent.job_id == job.id).scalar_subquery()
    values = {"job_id": job.id, "seq": seq, "tenant_id": job.tenant_id, "kind": kind, "data": data}
    session.execute(insert(JobEvent).values(**values))


def _release_waiting_jobs(session: Session, job: Job) -> None:
    """Start the jobs that wait for this one, with its output as their retrained model; fail them if it has none."""
    can_wait = (JobStatus.QUEUED, JobStatus.PAUSED)
    query = select(Job).where(Job.depends_on_job_id == job.id, Job.status.in_(can_wait)).order_by(Job.id)
    for waiting in list(session.scalars(query.with_for_update().execution_options(populate_existing=True))):
        if job.status == JobStatus.SUCCEEDED:
            output = retrained_models.ensure_output_model(session, job)
            waiting.models = {**waiting.models, RETRAINED: output.id}
            waiting.version += 1
            append_event(session, waiting, "log", {"message": f"the retrained model is the output of job {job.id}"})
            if waiting.status == JobStatus.QUEUED:  # resuming a paused one sends its message
                session.add(OutboxEntry(task=RUN_JOB_TASK, payload={"job_id": waiting.id}))
        else:
            cause = f": {job.status_reason['message']}" if job.status_reason and job.status == JobStatus.FAILED else ""
            message = f"job {job.id}, which was to make the retrained model, is {job.status}{cause}"
            reason = make_status_reason("retraining_failed", message)
            transition(session, waiting, JobStatus.FAILED, status_reason=reason)


def make_status_reason(code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    """Return the value of `status_reason`: why a job has its status."""
    return {"code": code, "message": message, "retryable": retryable, "details": []}


def make_deadline_reason(job: Job, progress: str) -> dict[str, Any]:
    """Return why a job failed that had not started, or not finished, by its deadline."""
    assert job.deadline is not None
    message = f"the job had not {progress} by its deadline, {job.deadline:%Y-%m-%d %H:%M:%S} UTC; retry it with another"
    return make_status_reason("deadline_exceeded", message, retryable=True)


def make_interval(seconds: float) -> Any:
    """Return a duration on the database's clock."""
    return cast(literal(f"{seconds} seconds"), Interval)


def make_time_from_now(seconds: float) -> Any:
    """Return the time `seconds` from now on the database's clock."""
    return func.clock_timestamp() + make_interval(seconds)
