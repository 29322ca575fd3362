"""Reads the log of a job: stored lines, and a note in place of the lines that its limits left out."""

from collections.abc import Iterator

from api.errors import make_not_found_error
from api.schemas.logs import LogLineOut
from soul_store import job_logs
from soul_store.database import Session
from soul_store.job_logs import LogLine
from soul_store.tables import Job


def list_lines(
    session: Session, job: Job, *, attempt: int | None, after: int, limit: int, tail: int | None
) -> list[LogLineOut]:
    """Return lines in order: the first `limit` or the last `tail` of those with a `seq` above `after`."""
    if attempt is not None and attempt > job.epoch:
        raise make_not_found_error(f"attempt {attempt} of job {job.id}, which had {job.epoch}")
    lines = job_logs.list_lines(
        session, job.id, attempt=attempt, after=after, limit=tail or limit, from_end=tail is not None
    )
    return [shown for line in lines for shown in _show(line)]


def _show(line: LogLine) -> Iterator[LogLineOut]:
    if line.num_left_out:
        message = f"{line.num_left_out} lines were left out: an attempt's log keeps its first and its last lines"
        yield LogLineOut(seq=line.seq - 1, attempt=line.attempt, at=line.at, level="info", message=message)
    own = {"seq": line.seq, "attempt": line.attempt, "at": line.at, "level": line.level, "message": line.message}
    yield LogLineOut.model_validate({**line.data, **own})
