"""Writes of a worker to the job it runs. Each requires the job's lease, so a worker that lost it changes no row.

Every write raises LeaseLostError, and writes nothing, when the job no longer runs under the lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Float, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_costs
from soul_store import job_state_machine as states
from soul_store.ids import new_id
from soul_store.job_costs import NewJobCost
from soul_store.job_status import JobStatus
from soul_store.tables import Artifact, Job, JobMetric

#: Kinds of event that update the job's row and are not stored as events: they would outnumber all others.
TRANSIENT_EVENT_KINDS = frozenset({"progress", "metrics"})


class StopCause(StrEnum):
    """Why a running job is to stop. The values of limits are codes of `status_reason`."""

    CANCEL = "cancel"
    PAUSE = "pause"
    DEADLINE = "deadline_exceeded"
    GPU_SECONDS = "gpu_seconds_exceeded"

    @property
    def is_limit(self) -> bool:
        """Whether the job reached a limit, and fails."""
        return self in {StopCause.DEADLINE, StopCause.GPU_SECONDS}


@dataclass(frozen=True)
class JobLease:
    """The right to write to a job: it holds while the job is running under this epoch."""

    job_id: str
    epoch: int


class LeaseLostError(Exception):
    """The job no longer runs under this lease: its status changed, or another worker claimed it."""

    def __init__(self, lease: JobLease) -> None:
        super().__init__(f"{lease.job_id} no longer runs under epoch {lease.epoch}; nothing was written")
        self.lease = lease


@dataclass(frozen=True)
class NewArtifact:
    """A file of the job's output, to be made visible when the job succeeds."""

    path: str
    blob: str
    size_bytes: int
    sha256: str


def claim(session: Session, job_id: str, *, worker: str, lease_seconds: float) -> Job | None:
    """Claim a queued job that is due: it runs under a new epoch and a lease. Return None if it cannot be claimed."""
    query = select(Job).where(Job.id == job_id, states.is_due())
    job = session.scalar(query.with_for_update(skip_locked=True, of=Job))
    if job is None:
        return None
    is_first_attempt = job.started_at is None
    states.transition(
        session, job, JobStatus.RUNNING, worker=worker, epoch=job.epoch + 1, status_reason=None, next_attempt_at=None
    )
    times: dict[str, Any] = {"lease_until": states.make_time_from_now(lease_seconds)}
    if is_first_attempt:
        times["started_at"] = func.clock_timestamp()
    session.execute(update(Job).where(Job.id == job_id).values(**times))
    session.refresh(job)
    return job


def heartbeat(session: Session, lease: JobLease, *, lease_seconds: float) -> StopCause | None:
    """Extend the lease and return why the job is to stop, if it is: its owner requested it, or a limit is reached."""
    lease_until = states.make_time_from_now(lease_seconds)
    earlier = func.coalesce(cast(Job.usage["engine_seconds"].astext, Float), 0.0)
    seconds = earlier + func.extract("epoch", func.clock_timestamp() - Job.claimed_at)
    cause = case(
        (Job.requested_action == "cancel", str(StopCause.CANCEL)),
        (Job.deadline < func.clock_timestamp(), str(StopCause.DEADLINE)),
        (seconds > Job.max_gpu_seconds, str(StopCause.GPU_SECONDS)),
        (Job.requested_action == "pause", str(StopCause.PAUSE)),
    )
    row = session.execute(
        update(Job).where(*_is_held(lease)).values(lease_until=lease_until).returning(cause.label("cause"))
    ).one_or_none()
    if row is None:
        raise LeaseLostError(lease)
    return None if row.cause is None else StopCause(row.cause)


def record_events(session: Session, lease: JobLease, events: Sequence[Event]) -> None:
    """Write the engine's events to the job's row, curves and events."""
    job = _lock(session, lease)
    for event in events:
        if event.kind == "phase":
            job.phase = event.data["phase"]
            job.progress = {}
        elif event.kind == "progress":
            job.progress = _make_progress(event.data)
        elif event.kind == "metrics":
            _upsert_metric(session, job, event)
        if event.kind not in TRANSIENT_EVENT_KINDS:
            states.append_event(session, job, event.kind, event.data)
    job.version += 1
    job.updated_at = func.clock_timestamp()
    session.flush()


def succeed(
    session: Session,
    lease: JobLease,
    *,
    verdict: str,
    report_blob: str,
    artifacts: Sequence[NewArtifact],
    usage: dict[str, Any],
    cost: NewJobCost | None = None,
) -> None:
    """End the job as succeeded: verdict, report and artifacts become visible in this commit, with the cost to learn.

    Repeating a call whose commit was not acknowledged changes nothing.
    """
    query = select(Job.id).where(Job.id == lease.job_id, Job.epoch == lease.epoch, Job.report_blob == report_blob)
    if session.scalar(query) is not None:
        return
    job = _lock(session, lease)
    for artifact in artifacts:
        session.add(Artifact(id=new_id("art"), tenant_id=job.tenant_id, job_id=job.id, **vars(artifact)))
    if cost is not None:
        job_costs.insert(session, cost)
    usage = _add_usage(job.usage, usage)
    states.transition(session, job, JobStatus.SUCCEEDED, verdict=verdict, report_blob=report_blob, usage=usage)


def fail(session: Session, lease: JobLease, *, reason: dict[str, Any], usage: dict[str, Any]) -> None:
    """End the job as failed. `reason` is {code, message, retryable, details}."""
    job = _lock(session, lease)
    states.transition(session, job, JobStatus.FAILED, status_reason=reason, usage=_add_usage(job.usage, usage))


def cancel(session: Session, lease: JobLease, *, usage: dict[str, Any]) -> None:
    """End the job as cancelled, because its owner requested it."""
    job = _lock(session, lease)
    reason = states.make_status_reason("cancelled", "cancelled while it ran")
    states.transition(session, job, JobStatus.CANCELLED, status_reason=reason, usage=_add_usage(job.usage, usage))


def release(session: Session, lease: JobLease, *, usage: dict[str, Any]) -> None:
    """Requeue the job because its worker drains; this does not count as a lost attempt.

    A job whose owner requested a pause or a cancel is paused or cancelled instead.
    """
    job = _lock(session, lease)
    reason = states.make_status_reason(
        "worker_left", "its worker shut down; the job resumes from its checkpoint", retryable=True
    )
    states.requeue(session, job, reason)
    job.usage = _add_usage(job.usage, usage)


def retry_or_fail(
    session: Session, lease: JobLease, *, reason: dict[str, Any], max_attempts: int, usage: dict[str, Any]
) -> None:
    """Requeue the job after a failure of the infrastructure, or end it as failed after `max_attempts` of them.

    A job whose owner requested a pause or a cancel is paused or cancelled instead.
    """
    job = _lock(session, lease)
    job.usage = _add_usage(job.usage, usage)
    states.retry_or_fail(session, job, reason, max_attempts)


def _is_held(lease: JobLease) -> tuple[Any, ...]:
    return Job.id == lease.job_id, Job.epoch == lease.epoch, Job.status == JobStatus.RUNNING


def _lock(session: Session, lease: JobLease) -> Job:
    """Lock the job's row and return it; raise LeaseLostError if the job does not run under this lease."""
    query = select(Job).where(*_is_held(lease)).with_for_update()
    job = session.scalar(query.execution_options(populate_existing=True))
    if job is None:
        raise LeaseLostError(lease)
    return job


def _upsert_metric(session: Session, job: Job, event: Event) -> None:
    values = {name: value for name, value in event.data.items() if name != "step"}
    row = {"job_id": job.id, "step": event.data["step"], "tenant_id": job.tenant_id, "values": values}
    upsert = insert(JobMetric).values(**row)
    session.execute(upsert.on_conflict_do_update(index_elements=["job_id", "step"], set_={"values": values}))


def _make_progress(data: dict[str, Any]) -> dict[str, Any]:
    done, total = data.get("done", 0), data.get("total") or 0
    return {
        "fraction": done / total if total else None,
        "step": done,
        "total_steps": total,
        "unit": data.get("unit", "step"),
        "eta_seconds": data.get("eta_seconds"),
    }


def _add_usage(usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**usage, **{name: usage.get(name, 0) + value for name, value in more.items()}}
