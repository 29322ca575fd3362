"""THE state machine of jobs: nothing else writes a job's status.

Row, event and outbox entry are written in the caller's transaction; a NOTIFY wakes those who watch the job.
`jobs.py` has what users and the keeper do to a job, `runs.py` what a worker does.
"""

from typing import Any

from sqlalchemy import Interval, and_, cast, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from soul_core.spec import RETRAINED
from soul_store import retrained_models
from soul_store.tables import Job, JobEvent, OutboxEntry

#: The one table: status -> the statuses it may become. Terminal states absorb.
TRANSITIONS: dict[str, frozenset[str]] = {
    "awaiting_approval": frozenset({"queued", "cancelled"}),
    "queued": frozenset({"running", "cancelled", "paused", "failed"}),  # failed: what it waited for came to nothing
    "running": frozenset({"succeeded", "failed", "cancelled", "queued", "paused"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
TERMINAL_STATUSES = frozenset(status for status, followers in TRANSITIONS.items() if not followers)

#: What a user may do to a job, by status.
ALLOWED_ACTIONS: dict[str, tuple[str, ...]] = {
    "awaiting_approval": ("cancel",),
    "queued": ("cancel",),
    "running": ("cancel",),
    "paused": ("cancel",),
    "succeeded": (),
    "failed": (),
    "cancelled": (),
}

RUN_JOB_TASK = "worker.tasks.run_job"
NOTIFY_CHANNEL = "soul_jobs"


class ActionNotAllowed(Exception):
    """The job's status does not allow the action."""

    def __init__(self, status: str, action: str) -> None:
        super().__init__(f"a job that is {status} cannot be asked to {action}")
        self.status = status
        self.action = action
        self.allowed_actions = get_allowed_actions(status)


def get_allowed_actions(status: str) -> tuple[str, ...]:
    """Return what a user may do to a job of this status."""
    return ALLOWED_ACTIONS[status]


def transition(session: Session, job: Job, status: str, **values: Any) -> None:
    """Change the status. The only line of the service that does."""
    if status not in TRANSITIONS[job.status]:
        msg = f"{job.id}: {job.status} -> {status} is not in the transition table"
        raise AssertionError(msg)
    job.status = status
    for name, value in values.items():
        setattr(job, name, value)
    if status != "running":
        job.lease_until = None
        job.worker = None
    if status in TERMINAL_STATUSES:
        job.finished_at = func.clock_timestamp()
        job.requested_action = None
        job.progress = {}
        job.phase = None
    job.version += 1
    job.updated_at = func.clock_timestamp()
    if status == "running":  # the row's constraint wants a lease beside the status
        job.lease_until = func.clock_timestamp()
    session.flush()
    data = {"status": status, "epoch": job.epoch}
    if job.verdict is not None:
        data["verdict"] = job.verdict
    if job.status_reason is not None:
        data["reason"] = job.status_reason
    append_event(session, job, "status", data)
    if status in TERMINAL_STATUSES:
        _tell_those_who_wait(session, job)


def is_due() -> Any:
    """Return the condition under which a queued job may be claimed: its time and what it waits for have come."""
    earlier = aliased(Job)
    done = select(earlier.id).where(earlier.id == Job.depends_on_job_id, earlier.status == "succeeded").exists()
    in_time = or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= func.clock_timestamp())
    return and_(Job.status == "queued", in_time, or_(Job.depends_on_job_id.is_(None), done))


def requeue(session: Session, job: Job, status_reason: dict[str, Any], *, delay_seconds: float = 0) -> None:
    """Put a running job back in the queue, or end it when its owner wished it cancelled."""
    if job.requested_action == "cancel":
        transition(session, job, "cancelled", status_reason=make_status_reason("cancelled", "cancelled while it ran"))
        return
    transition(session, job, "queued", status_reason=status_reason, phase=None, progress={})
    session.execute(
        update(Job).where(Job.id == job.id).values(next_attempt_at=make_time_from_now(delay_seconds), sent_at=None)
    )
    if delay_seconds == 0:  # later ones are sent by the keeper when they are due
        session.add(OutboxEntry(task=RUN_JOB_TASK, payload={"job_id": job.id}))
    session.flush()


def retry_or_fail(session: Session, job: Job, status_reason: dict[str, Any], max_attempts: int) -> None:
    """Spend an attempt: back to the queue after a pause, failed when none is left, cancelled when that was wished."""
    job.attempt += 1
    if job.attempt >= max_attempts and job.requested_action != "cancel":
        message = f"{status_reason['message']}; it was lost {job.attempt} times, which is the most that is tried"
        transition(session, job, "failed", status_reason={**status_reason, "message": message})
    else:
        requeue(session, job, status_reason, delay_seconds=0 if job.attempt == 1 else 2.0**job.attempt)


def append_event(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    """Append an event. The job's row is locked by now, so `seq` has no gaps and no doubles."""
    session.flush()
    seq = select(func.coalesce(func.max(JobEvent.seq), 0) + 1).where(JobEvent.job_id == job.id).scalar_subquery()
    values = {"job_id": job.id, "seq": seq, "tenant_id": job.tenant_id, "kind": kind, "data": data}
    session.execute(insert(JobEvent).values(**values))
    notify(session, job)


def _tell_those_who_wait(session: Session, job: Job) -> None:
    """Let the jobs go that waited for this one, with its output as their reference; or end them when it has none."""
    query = select(Job).where(Job.depends_on_job_id == job.id, Job.status == "queued").order_by(Job.id)
    waiting = list(session.scalars(query.with_for_update().execution_options(populate_existing=True)))
    for each in waiting:
        if job.status == "succeeded":
            each.models = {**each.models, RETRAINED: retrained_models.ensure_output_model(session, job).id}
            each.version += 1
            append_event(session, each, "log", {"message": f"the reference was retrained by job {job.id}"})
            session.add(OutboxEntry(task=RUN_JOB_TASK, payload={"job_id": each.id}))
        else:
            told = f": {job.status_reason['message']}" if job.status_reason and job.status == "failed" else ""
            message = f"job {job.id}, which was to retrain the reference, is {job.status}{told}"
            transition(session, each, "failed", status_reason=make_status_reason("retraining_failed", message))


def notify(session: Session, job: Job) -> None:
    """Wake those who watch the job."""
    session.execute(text("SELECT pg_notify(:channel, :job)"), {"channel": NOTIFY_CHANNEL, "job": job.id})


def make_status_reason(code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
    """Return why a job is where it is, as `status_reason` has it."""
    return {"code": code, "message": message, "retryable": retryable, "details": []}


def make_interval(seconds: float) -> Any:
    """Return a length of time for the database's clock."""
    return cast(literal(f"{seconds} seconds"), Interval)


def make_time_from_now(seconds: float) -> Any:
    """Return a moment on the database's clock."""
    return func.clock_timestamp() + make_interval(seconds)
