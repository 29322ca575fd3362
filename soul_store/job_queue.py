"""The queue: which job is next, and how many are ahead of each.

The order is by priority, which rises while a job waits, so that none starves; among equal ones by turns of the
projects, the one with the fewest running jobs and the least use of workers first; then by age. The broker has no part
in it: a message wakes a worker, and the worker claims what is next.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, Subquery, case, cast, func, literal, or_, select
from sqlalchemy.orm import Session

from soul_store import job_leases
from soul_store.job_priority import JobPriority
from soul_store.job_state_machine import is_due
from soul_store.job_status import JobStatus
from soul_store.placement import WorkerDevice, fits
from soul_store.settings import get_settings
from soul_store.tables import HAS_BEGUN, Job

#: Seconds of workers that a project used longer ago are forgotten.
USAGE_WINDOW = timedelta(days=1)


def claim_next(session: Session, *, worker: str, device: WorkerDevice, lease_seconds: float) -> Job | None:
    """Claim the next job that fits on the worker's device. None if there is none; a job being claimed is skipped."""
    turns = _rank_turns(is_due())
    query = select(Job.id).join(turns, turns.c.id == Job.id).where(is_due(), fits(device)).order_by(*_get_order(turns))
    job_id = session.scalar(query.limit(1).with_for_update(skip_locked=True, of=Job))
    if job_id is None:
        return None
    return job_leases.claim(session, job_id, worker=worker, lease_seconds=lease_seconds)


def find_waiting_job(session: Session, *, worker: str, device: WorkerDevice) -> str | None:
    """Return a job that the worker can claim, if it runs none: a message may have woken one that cannot."""
    is_busy = select(Job.id).where(Job.status == JobStatus.RUNNING, Job.worker == worker).exists()
    return session.scalar(select(Job.id).where(is_due(), fits(device), ~is_busy).limit(1))


def list_positions(session: Session) -> dict[str, int]:
    """Return how many jobs that a worker may claim are ahead of each queued one (0: next), by job id.

    It assumes that the running jobs of the projects stay the same.
    """
    turns = _rank_turns(Job.status == JobStatus.QUEUED)
    ahead = func.coalesce(
        func.sum(turns.c.is_due).over(order_by=_get_order(turns), rows=(None, -1)),
        0,
    )
    return {job_id: int(num_ahead) for job_id, num_ahead in session.execute(select(turns.c.id, ahead))}


def _rank_turns(condition: ColumnElement[bool]) -> Subquery:
    """Return queued jobs with what orders them. A project's n-th job has its n-th turn after those that run."""
    usage = _sum_usage().subquery()
    level = _compute_level()
    number = func.row_number().over(partition_by=Job.tenant_id, order_by=(level.desc(), Job.queued_at, Job.id))
    query = select(
        Job.id,
        level.label("level"),
        (func.coalesce(usage.c.num_running, 0) + number).label("turn"),
        func.coalesce(usage.c.seconds, 0.0).label("seconds"),
        Job.queued_at,
        case((is_due(), 1), else_=0).label("is_due"),
    )
    return query.outerjoin(usage, usage.c.tenant_id == Job.tenant_id).where(condition).subquery()


def _get_order(turns: Subquery) -> tuple[ColumnElement[Any], ...]:
    return turns.c.level.desc(), turns.c.turn, turns.c.seconds, turns.c.queued_at, turns.c.id


def _compute_level() -> ColumnElement[Any]:
    """Return the priority's level plus one for each aging period that the job has waited."""
    levels = case({str(priority): priority.level for priority in JobPriority}, value=Job.priority)
    waited = func.extract("epoch", func.now() - Job.queued_at)
    return levels + func.floor(waited / get_settings().priority_aging_seconds)


def _sum_usage() -> Select[str, int, Any]:
    """Select the running jobs of each project, and the seconds that it used workers within the window."""
    is_running = Job.status == JobStatus.RUNNING
    earlier = func.coalesce(cast(Job.usage["engine_seconds"].astext, Float), 0.0)
    running = case((is_running, func.extract("epoch", func.now() - Job.claimed_at)), else_=0.0)
    has_used = or_(HAS_BEGUN, Job.finished_at > func.now() - literal(USAGE_WINDOW))
    return (
        select(
            Job.tenant_id,
            func.count().filter(is_running).label("num_running"),
            func.sum(earlier + running).label("seconds"),
        )
        .where(has_used)
        .group_by(Job.tenant_id)
    )
