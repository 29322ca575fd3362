"""The lines of a job's log: what its attempts write, and what readers see of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from soul_store.job_leases import JobLease, LeaseLostError
from soul_store.tables import Job, JobLogLine


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log. `num_left_out` counts the lines before it that the limits of an attempt left out."""

    seq: int
    attempt: int
    at: datetime
    level: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    num_left_out: int = 0


def append(session: Session, lease: JobLease, lines: Sequence[LogLine], *, left_out: range) -> None:
    """Write lines of an attempt, and delete the lines whose numbers are in `left_out`.

    The attempt may have ended, but raises LeaseLostError if a later one has begun. Repeating a call changes nothing.
    """
    query = select(Job.tenant_id).where(Job.id == lease.job_id, Job.epoch == lease.epoch).with_for_update()
    tenant_id = session.scalar(query)
    if tenant_id is None:
        raise LeaseLostError(lease)
    if lines:
        rows = [
            {
                "job_id": lease.job_id,
                "seq": line.seq,
                "tenant_id": tenant_id,
                "attempt": lease.epoch,
                "at": line.at,
                "level": line.level,
                "message": line.message,
                "data": line.data,
            }
            for line in lines
        ]
        session.execute(insert(JobLogLine).on_conflict_do_nothing(), rows)
    if left_out:
        between = JobLogLine.seq.between(left_out.start, left_out.stop - 1)
        session.execute(delete(JobLogLine).where(JobLogLine.job_id == lease.job_id, between))


def get_last_seq(session: Session, job_id: str) -> int:
    """Return the number of the job's last line, 0 without lines."""
    return session.scalar(select(func.max(JobLogLine.seq)).where(JobLogLine.job_id == job_id)) or 0


def list_lines(
    session: Session, job_id: str, *, limit: int, after: int = 0, attempt: int | None = None, from_end: bool = False
) -> list[LogLine]:
    """Return lines in order: the first `limit` (`from_end`: the last) of those with numbers above `after`, of one
    attempt or of all.
    """
    previous = func.lag(JobLogLine.seq).over(order_by=JobLogLine.seq).label("previous_seq")
    numbered = select(JobLogLine, previous).where(JobLogLine.job_id == job_id).subquery()
    line = aliased(JobLogLine, numbered)
    query = select(line, numbered.c.previous_seq).where(line.seq > after).limit(limit)
    if attempt is not None:
        query = query.where(line.attempt == attempt)
    rows = session.execute(query.order_by(line.seq.desc() if from_end else line.seq)).all()
    return [
        LogLine(
            row.seq,
            row.attempt,
            row.at,
            row.level,
            row.message,
            row.data,
            # an attempt keeps its first and its last line, so lines are left out only within an attempt
            num_left_out=row.seq - max(previous_seq, after) - 1 if previous_seq is not None else 0,
        )
        for row, previous_seq in (reversed(rows) if from_end else rows)
    ]
