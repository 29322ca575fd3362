"""What a worker does to the job it runs. Every write is conditional on the epoch it claimed: a zombie's touches no row.

Each returns False, and writes nothing, when the job is no longer running under that epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_state_machine as states
from soul_store.ids import new_id
from soul_store.tables import Artifact, Job, JobMetric

#: Kinds of event that only move the row; kept as rows they would drown the others.
TRANSIENT_EVENT_KINDS = frozenset({"progress", "metrics"})


@dataclass(frozen=True)
class HeartbeatResult:
    """The answer to a heartbeat: whether the job is no longer ours, and what its owner wishes."""

    is_lease_lost: bool
    requested_action: str | None = None


@dataclass(frozen=True)
class NewArtifact:
    """A file to be made visible with the job's end."""

    path: str
    blob: str
    size_bytes: int
    sha256: str


def claim(session: Session, job_id: str, *, worker: str, lease_seconds: float) -> Job | None:
    """Take a queued job that is due: running, under a new epoch and a lease. None when it is not to be had."""
    query = select(Job).where(Job.id == job_id, states.is_due())
    job = session.scalar(query.with_for_update(skip_locked=True, of=Job))
    if job is None:
        return None
    first = job.started_at is None
    states.transition(
        session, job, "running", worker=worker, epoch=job.epoch + 1, status_reason=None, next_attempt_at=None
    )
    times: dict[str, Any] = {"lease_until": states.make_time_from_now(lease_seconds)}
    if first:
        times["started_at"] = func.clock_timestamp()
    session.execute(update(Job).where(Job.id == job_id).values(**times))
    session.refresh(job)
    return job


def heartbeat(session: Session, job_id: str, epoch: int, *, lease_seconds: float) -> HeartbeatResult:
    """Extend the lease. `lost` when the job is no longer running under this epoch."""
    lease = states.make_time_from_now(lease_seconds)
    row = session.execute(
        update(Job).where(*_held(job_id, epoch)).values(lease_until=lease).returning(Job.requested_action)
    ).first()
    return (
        HeartbeatResult(is_lease_lost=True)
        if row is None
        else HeartbeatResult(is_lease_lost=False, requested_action=row.requested_action)
    )


def record_events(session: Session, job_id: str, epoch: int, events: Sequence[Event]) -> bool:
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
        if event.kind not in TRANSIENT_EVENT_KINDS:
            states.append_event(session, job, event.kind, event.data)
    job.version += 1
    job.updated_at = func.clock_timestamp()
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
    states.transition(
        session, job, "succeeded", verdict=verdict, report_blob=report_blob, usage=_added(job.usage, usage)
    )
    return True


def fail(session: Session, job_id: str, epoch: int, *, reason: dict[str, Any], usage: dict[str, Any]) -> bool:
    """End a run badly for good. `reason` is {code, message, retryable, details}."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    states.transition(session, job, "failed", status_reason=reason, usage=_added(job.usage, usage))
    return True


def cancel(session: Session, job_id: str, epoch: int, *, usage: dict[str, Any]) -> bool:
    """Say that the run stopped because its owner wished it."""
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    reason = states.make_status_reason("cancelled", "cancelled while it ran")
    states.transition(session, job, "cancelled", status_reason=reason, usage=_added(job.usage, usage))
    return True


def release(session: Session, job_id: str, epoch: int, *, usage: dict[str, Any]) -> bool:
    """Put a job back in the queue with no attempt spent: its worker leaves, its checkpoint stays. Or cancel it, when
    that was wished.
    """
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    left = states.make_status_reason(
        "worker_left", "its worker was asked to leave; it resumes from its checkpoint", retryable=True
    )
    states.requeue(session, job, left)
    job.usage = _added(job.usage, usage)
    return True


def retry_or_fail(
    session: Session, job_id: str, epoch: int, *, reason: dict[str, Any], max_attempts: int, usage: dict[str, Any]
) -> bool:
    """Spend an infrastructure attempt: back to the queue after a pause, failed when none is left; or cancelled, when
    that was wished.
    """
    job = _hold(session, job_id, epoch)
    if job is None:
        return False
    job.usage = _added(job.usage, usage)
    states.retry_or_fail(session, job, reason, max_attempts)
    return True


# --- below: how, never what next ---


def _held(job_id: str, epoch: int) -> tuple[Any, ...]:
    return Job.id == job_id, Job.epoch == epoch, Job.status == "running"


def _hold(session: Session, job_id: str, epoch: int) -> Job | None:
    """Lock the job if it is still running under this epoch."""
    return session.scalar(
        select(Job).where(*_held(job_id, epoch)).with_for_update().execution_options(populate_existing=True)
    )


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


def _added(usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**usage, **{name: usage.get(name, 0) + value for name, value in more.items()}}
