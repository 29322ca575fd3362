"""Queries on jobs, and THE state machine: nothing else writes a job's status.

Every write of a worker is conditional on the epoch it claimed, so the write of a zombie touches no row. Row, event,
audit entry and outbox entry are written in the caller's transaction; a NOTIFY wakes those who watch the job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Interval, cast, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.store.ids import new_id
from api.store.tables import Artifact, AuditEntry, Job, JobEvent, JobMetric, OutboxEntry
from soul_core.listener import Event

#: The one table: status -> the statuses it may become. Terminal states absorb.
TRANSITIONS: dict[str, frozenset[str]] = {
    "awaiting_approval": frozenset({"queued", "cancelled"}),
    "queued": frozenset({"running", "cancelled", "paused"}),
    "running": frozenset({"succeeded", "failed", "cancelled", "queued", "paused"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
TERMINAL = frozenset(status for status, followers in TRANSITIONS.items() if not followers)

#: What a user may do to a job, by status.
ACTIONS: dict[str, tuple[str, ...]] = {
    "awaiting_approval": ("cancel",),
    "queued": ("cancel",),
    "running": ("cancel",),
    "paused": ("cancel",),
    "succeeded": (),
    "failed": (),
    "cancelled": (),
}

RUN_JOB = "worker.tasks.run_job"
CHANNEL = "soul_jobs"
#: Kinds of event that only move the row; kept as rows they would drown the others.
TRANSIENT = frozenset({"progress", "metrics"})


class NotAllowed(Exception):
    """The job's status does not allow the action."""

    def __init__(self, status: str, action: str) -> None:
        super().__init__(f"a job that is {status} cannot be asked to {action}")
        self.status = status
        self.action = action
        self.allowed_actions = allowed_actions(status)


@dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat: whether the job is no longer ours, and what its owner wishes."""

    lost: bool
    wish: str | None = None


@dataclass(frozen=True)
class NewArtifact:
    """A file to be made visible with the job's end."""

    path: str
    blob: str
    size_bytes: int
    sha256: str


def allowed_actions(status: str) -> tuple[str, ...]:
    """Return what a user may do to a job of this status."""
    return ACTIONS[status]


def create(
    session: Session,
    *,
    tenant_id: str,
    created_by: str,
    name: str,
    model_id: str,
    datasets: dict[str, str],
    spec: dict[str, Any],
    spec_sha256: str,
) -> Job:
    """Write a queued job with its first event, its audit entry and the message that will start it."""
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        created_by=created_by,
        name=name,
        model_id=model_id,
        datasets=dict(datasets),
        spec=spec,
        spec_sha256=spec_sha256,
        status="queued",
    )
    session.add(job)
    session.flush()
    session.refresh(job)
    _event(session, job, "status", {"status": "queued"})
    session.add(OutboxEntry(task=RUN_JOB, payload={"job_id": job.id}))
    session.add(AuditEntry(tenant_id=tenant_id, actor=created_by, action="job.create", resource=job.id))
    return job


def request_cancel(session: Session, job: Job, actor: str) -> Job:
    """End a waiting job at once; wish a running one cancelled. Raises NotAllowed for a terminal one."""
    session.refresh(job, with_for_update=True)
    if "cancel" not in allowed_actions(job.status):
        raise NotAllowed(job.status, "cancel")
    if job.status == "running":
        if job.wish != "cancel":
            job.wish = "cancel"
            job.version += 1
            _event(session, job, "wish", {"wish": "cancel"})
    else:
        _move(session, job, "cancelled", status_reason=_reason("cancelled", "cancelled before it ran"))
    session.add(AuditEntry(tenant_id=job.tenant_id, actor=actor, action="job.cancel", resource=job.id))
    session.flush()
    return job


def claim(session: Session, job_id: str, *, worker: str, lease_seconds: float) -> Job | None:
    """Take a queued job that is due: running, under a new epoch and a lease. None when it is not to be had."""
    due = or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= func.clock_timestamp())
    job = session.scalar(
        select(Job).where(Job.id == job_id, Job.status == "queued", due).with_for_update(skip_locked=True)
    )
    if job is None:
        return None
    first = job.started_at is None
    _move(session, job, "running", worker=worker, epoch=job.epoch + 1, status_reason=None, next_attempt_at=None)
    times: dict[str, Any] = {"lease_until": _from_now(lease_seconds)}
    if first:
        times["started_at"] = func.clock_timestamp()
    session.execute(update(Job).where(Job.id == job_id).values(**times))
    session.refresh(job)
    return job


def beat(session: Session, job_id: str, epoch: int, *, lease_seconds: float) -> Beat:
    """Extend the lease. `lost` when the job is no longer running under this epoch."""
    extend = update(Job).where(*_held(job_id, epoch)).values(lease_until=_from_now(lease_seconds)).returning(Job.wish)
    row = session.execute(extend).first()
    return Beat(lost=True) if row is None else Beat(lost=False, wish=row.wish)


def record(session: Session, job_id: str, epoch: int, events: Sequence[Event]) -> bool:
    """Write what the engine told. False, and nothing written, when the job is no longer ours."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    for event in events:
        if event.kind == "phase":
            job.phase = event.data["phase"]
            job.progress = {}
        elif event.kind == "progress":
            job.progress = _progress(event.data)
        elif event.kind == "metrics":
            _curve_point(session, job, event)
        if event.kind not in TRANSIENT:
            _event(session, job, event.kind, event.data)
    job.version += 1
    job.updated_at = func.clock_timestamp()
    _notify(session, job)
    session.flush()
    return True


def succeed(
    session: Session,
    job_id: str,
    epoch: int,
    *,
    verdict: str,
    report_blob: str,
    artifacts: Sequence[NewArtifact],
    usage: dict[str, Any],
) -> bool:
    """End a run well: verdict, report and artifacts become visible in this one commit."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    for made in artifacts:
        session.add(Artifact(id=new_id("art"), tenant_id=job.tenant_id, job_id=job.id, **vars(made)))
    _move(session, job, "succeeded", verdict=verdict, report_blob=report_blob, usage=_added(job.usage, usage))
    return True


def fail(session: Session, job_id: str, epoch: int, *, reason: dict[str, Any], usage: dict[str, Any]) -> bool:
    """End a run badly for good. `reason` is {code, message, retryable, details}."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    _move(session, job, "failed", status_reason=reason, usage=_added(job.usage, usage))
    return True


def cancelled(session: Session, job_id: str, epoch: int, *, usage: dict[str, Any]) -> bool:
    """Say that the run stopped because its owner wished it."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    reason = _reason("cancelled", "cancelled while it ran")
    _move(session, job, "cancelled", status_reason=reason, usage=_added(job.usage, usage))
    return True


def hand_back(session: Session, job_id: str, epoch: int, *, usage: dict[str, Any]) -> bool:
    """Put a job back in the queue with no attempt spent: its worker leaves, its checkpoint stays."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    _requeue(
        session, job, _reason("worker_left", "its worker was asked to leave; it resumes from its checkpoint", True)
    )
    job.usage = _added(job.usage, usage)
    return True


def lose(
    session: Session, job_id: str, epoch: int, *, reason: dict[str, Any], max_attempts: int, usage: dict[str, Any]
) -> bool:
    """Spend an infrastructure attempt: back to the queue after a pause, or failed when none is left."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    job.usage = _added(job.usage, usage)
    _lose(session, job, reason, max_attempts)
    return True


def requeue_lost(session: Session, *, max_attempts: int) -> list[str]:
    """Take back the jobs whose lease ran out, at the database's clock. Returns their ids."""
    expired = select(Job).where(Job.status == "running", Job.lease_until < func.clock_timestamp())
    lost = list(session.scalars(expired.with_for_update(skip_locked=True)))
    for job in lost:
        if job.wish == "cancel":
            _move(session, job, "cancelled", status_reason=_reason("cancelled", "cancelled while it ran"))
        else:
            _lose(session, job, _reason("worker_lost", f"worker {job.worker} fell silent", True), max_attempts)
    return [job.id for job in lost]


def resend_queued(session: Session, *, messages_waiting: int, silent_seconds: float) -> list[str]:
    """Write messages anew for queued jobs the broker may have forgotten. Returns their ids.

    Only when the broker holds fewer messages than jobs wait; a message too many is harmless (`claim` finds nothing).
    """
    due = or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= func.clock_timestamp())
    waiting = session.scalar(select(func.count()).select_from(Job).where(Job.status == "queued", due)) or 0
    if waiting <= messages_waiting:
        return []
    silent = or_(Job.sent_at.is_(None), Job.sent_at < func.clock_timestamp() - _seconds(silent_seconds))
    # a fresh job's own message is still in the outbox
    old = Job.updated_at < func.clock_timestamp() - _seconds(silent_seconds)
    query = select(Job).where(Job.status == "queued", due, silent, old).order_by(Job.id).limit(1000)
    forgotten = list(session.scalars(query.with_for_update(skip_locked=True)))
    for job in forgotten:
        session.add(OutboxEntry(task=RUN_JOB, payload={"job_id": job.id}))
        job.sent_at = func.clock_timestamp()
    session.flush()
    return [job.id for job in forgotten]


# --- below: how, never what next ---


def _held(job_id: str, epoch: int) -> tuple[Any, ...]:
    return Job.id == job_id, Job.epoch == epoch, Job.status == "running"


def _hold(session: Session, job_id: str, epoch: int) -> Job | None:
    """Lock the job if it is still running under this epoch."""
    return session.scalar(
        select(Job).where(*_held(job_id, epoch)).with_for_update().execution_options(populate_existing=True)
    )


def _move(session: Session, job: Job, status: str, **values: Any) -> None:
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
    if status in TERMINAL:
        job.finished_at = func.clock_timestamp()
        job.wish = None
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
    _event(session, job, "status", data)


def _requeue(session: Session, job: Job, reason: dict[str, Any], *, pause_seconds: float = 0) -> None:
    _move(session, job, "queued", status_reason=reason, phase=None, progress={})
    session.execute(update(Job).where(Job.id == job.id).values(next_attempt_at=_from_now(pause_seconds), sent_at=None))
    if pause_seconds == 0:  # later ones are sent by the janitor when they are due
        session.add(OutboxEntry(task=RUN_JOB, payload={"job_id": job.id}))
    session.flush()


def _lose(session: Session, job: Job, reason: dict[str, Any], max_attempts: int) -> None:
    job.attempt += 1
    if job.attempt >= max_attempts:
        message = f"{reason['message']}; it was lost {job.attempt} times, which is the most that is tried"
        _move(session, job, "failed", status_reason={**reason, "message": message})
    else:
        _requeue(session, job, reason, pause_seconds=0 if job.attempt == 1 else 2.0**job.attempt)


def _event(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    """Append an event. The job's row is locked by now, so `seq` has no gaps and no doubles."""
    session.flush()
    seq = select(func.coalesce(func.max(JobEvent.seq), 0) + 1).where(JobEvent.job_id == job.id).scalar_subquery()
    values = {"job_id": job.id, "seq": seq, "tenant_id": job.tenant_id, "kind": kind, "data": data}
    session.execute(insert(JobEvent).values(**values))
    _notify(session, job)


def _notify(session: Session, job: Job) -> None:
    session.execute(text("SELECT pg_notify(:channel, :job)"), {"channel": CHANNEL, "job": job.id})


def _curve_point(session: Session, job: Job, event: Event) -> None:
    values = {name: value for name, value in event.data.items() if name != "step"}
    row = {"job_id": job.id, "step": event.data["step"], "tenant_id": job.tenant_id, "values": values}
    upsert = insert(JobMetric).values(**row)
    session.execute(upsert.on_conflict_do_update(index_elements=["job_id", "step"], set_={"values": values}))


def _progress(data: dict[str, Any]) -> dict[str, Any]:
    done, total = data.get("done", 0), data.get("total") or 0
    return {
        "fraction": done / total if total else None,
        "step": done,
        "total_steps": total,
        "unit": data.get("unit", "step"),
        "eta_seconds": data.get("eta_seconds"),
    }


def _reason(code: str, message: str, retryable: bool = False) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": retryable, "details": []}


def _added(usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**usage, **{name: usage.get(name, 0) + value for name, value in more.items()}}


def _seconds(seconds: float) -> Any:
    return cast(literal(f"{seconds} seconds"), Interval)


def _from_now(seconds: float) -> Any:
    return func.clock_timestamp() + _seconds(seconds)
