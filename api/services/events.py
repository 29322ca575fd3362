"""What a job reports while it runs: its events, its curves, and its current progress."""

from dataclasses import dataclass
from typing import Any

from api.schemas.jobs import MetricsOut
from soul_store import job_queries
from soul_store.database import Session
from soul_store.job_status import JobStatus
from soul_store.tables import Job, JobEvent

#: Phases whose metrics a stream sends.
_TRAINING_PHASES = frozenset({"unlearn", "finetune"})


@dataclass(frozen=True)
class JobUpdate:
    """The events after a given one, and the state of the job when they were read.

    `current` is kind -> data of the newest metrics and progress, which are not stored as events; empty if there are
    events to send first.
    """

    events: list[JobEvent]
    current: dict[str, dict[str, Any]]
    has_finished: bool


def list_events(session: Session, job: Job, *, after: int, limit: int) -> list[JobEvent]:
    """Return a job's events after the `seq` given, in order."""
    return job_queries.list_events(session, job.id, after, limit=limit)


def read_update(session: Session, job: Job, *, after: int) -> JobUpdate:
    """Return what a stream sends next. The job is read before its events: none of a finished job is missed."""
    events = job_queries.list_events(session, job.id, after)
    current: dict[str, dict[str, Any]] = {}
    if not events and job.status == JobStatus.RUNNING and job.progress:
        point = job_queries.get_last_metric(session, job.id) if job.phase in _TRAINING_PHASES else None
        if point is not None:
            current["metrics"] = {"step": point.step, **point.values}
        current["progress"] = {
            "phase": job.phase,
            "done": job.progress.get("step"),
            "total": job.progress.get("total_steps"),
            "unit": job.progress.get("unit"),
            "eta_seconds": job.progress.get("eta_seconds"),
        }
    return JobUpdate(events, current, job.status.is_terminal)


def get_metrics(session: Session, job: Job) -> MetricsOut:
    """Return the curves of a job: one value per step, null where a step has none."""
    points = job_queries.list_metrics(session, job.id)
    names = list(dict.fromkeys(name for point in points for name in point.values))
    return MetricsOut(
        steps=[point.step for point in points],
        curves={name: [point.values.get(name) for point in points] for name in names},
    )
