"""An attempt's log keeps its first and its last lines, and is written as often as it takes."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_core.log_records import LogRecord
from soul_store import job_leases, job_logs
from soul_store.job_leases import JobLease, LeaseLostError
from soul_store.job_logs import LogLine
from soul_store.tables import Job, JobEvent
from tests.worker.conftest import Desk
from worker.attempt_log import AttemptLog, LogLimits


def claim(desk: Desk, job_id: str) -> JobLease:
    with Session(desk.database) as session, session.begin():
        job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
        assert job is not None
        return JobLease(job.id, job.epoch)


@pytest.fixture
def lease(desk: Desk) -> JobLease:
    return claim(desk, desk.submit())


@pytest.fixture
def attempt_log(lease: JobLease) -> AttemptLog:
    return AttemptLog(lease, LogLimits(max_lines=10, max_bytes=100_000), last_seq=0)


def write(desk: Desk, attempt_log: AttemptLog) -> None:
    with Session(desk.database) as session, session.begin():
        seq = attempt_log.write(session)
    attempt_log.confirm(seq)


def read(desk: Desk, lease: JobLease) -> list[LogLine]:
    with Session(desk.database) as session:
        return job_logs.list_lines(session, lease.job_id, limit=1000)


@pytest.mark.parametrize("num_per_write", [1, 7, 100], ids=lambda number: f"{number} lines per write")
def test_the_first_and_last_lines_are_kept_and_the_gap_is_counted(
    desk: Desk, lease: JobLease, attempt_log: AttemptLog, num_per_write: int
) -> None:
    for number in range(1, 101):
        attempt_log.info(f"line {number}")
        if number % num_per_write == 0:
            write(desk, attempt_log)
    write(desk, attempt_log)

    lines = read(desk, lease)

    assert [line.seq for line in lines] == [1, 2, 3, 4, 5, 96, 97, 98, 99, 100]
    assert [line.message for line in lines] == [f"line {line.seq}" for line in lines]
    assert [line.num_left_out for line in lines] == [0, 0, 0, 0, 0, 90, 0, 0, 0, 0]


def test_large_lines_use_up_the_bytes_before_the_lines(desk: Desk, lease: JobLease) -> None:
    attempt_log = AttemptLog(lease, LogLimits(max_lines=1000, max_bytes=2_000), last_seq=0)
    for number in range(1, 21):
        attempt_log.info(f"{number} " + "x" * 400)
    write(desk, attempt_log)

    assert [line.seq for line in read(desk, lease)] == [1, 2, 3, 19, 20]


def test_lines_are_written_once_even_if_a_commit_is_not_acknowledged(
    desk: Desk, lease: JobLease, attempt_log: AttemptLog
) -> None:
    attempt_log.info("first")
    with Session(desk.database) as session, session.begin():
        attempt_log.write(session)  # and no confirm
    attempt_log.info("second")

    write(desk, attempt_log)

    assert [line.message for line in read(desk, lease)] == ["first", "second"]


def test_the_next_attempt_continues_the_numbers(desk: Desk, lease: JobLease, attempt_log: AttemptLog) -> None:
    attempt_log.info("of the first attempt")
    write(desk, attempt_log)
    with Session(desk.database) as session, session.begin():
        job_leases.release(session, lease, usage={})
    second_lease = claim(desk, lease.job_id)
    with Session(desk.database) as session:
        second = AttemptLog(second_lease, LogLimits(10, 10_000), last_seq=job_logs.get_last_seq(session, lease.job_id))
    second.info("of the second attempt")
    write(desk, second)

    attempt_log.info("too late")
    with pytest.raises(LeaseLostError):
        write(desk, attempt_log)

    assert [(line.seq, line.attempt, line.message) for line in read(desk, lease)] == [
        (1, 1, "of the first attempt"),
        (2, 2, "of the second attempt"),
    ]


def test_events_and_records_of_the_engine_become_lines(desk: Desk, lease: JobLease, attempt_log: AttemptLog) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    attempt_log.add_event(Event(kind="phase", data={"phase": "load"}, at=at))
    attempt_log.add_event(Event(kind="progress", data={"done": 1}))
    attempt_log.add_event(Event(kind="failed", data={"code": "diverged", "message": "not finite", "details": []}))
    attempt_log.add_record(LogRecord(at=at, level="info", logger="soul_core", message="ready", fields={"job_id": "j"}))
    attempt_log.add_stderr_line("  \n")
    attempt_log.add_stderr_line("out of memory\n")
    attempt_log.add_stderr_line("rest of a long line\n", is_complete=False)
    attempt_log.add_malformed_line('{"kind": "log_record", "message": "cut\n')
    attempt_log.add_malformed_line("Fatal Python error: Segmentation fault\n")
    write(desk, attempt_log)

    lines = read(desk, lease)

    assert (lines[0].at, lines[0].attempt) == (at, 1)
    assert [(line.level, line.message, line.data) for line in lines] == [
        ("info", "phase begins", {"source": "engine", "phase": "load"}),
        ("error", "not finite", {"source": "engine", "code": "diverged", "details": []}),
        ("info", "ready", {"source": "engine"}),
        ("warning", "out of memory", {"source": "stderr"}),
        ("warning", "(withheld: 19 further characters of that line)", {"source": "stderr"}),
        ("error", "(withheld: an incomplete record)", {"source": "engine"}),
        ("error", "Fatal Python error: Segmentation fault", {"source": "engine"}),
    ]


def test_the_log_is_removed_with_its_job(desk: Desk, lease: JobLease, attempt_log: AttemptLog) -> None:
    attempt_log.info("a line")
    write(desk, attempt_log)

    with Session(desk.database) as session, session.begin():
        session.execute(delete(JobEvent).where(JobEvent.job_id == lease.job_id))
        session.execute(delete(Job).where(Job.id == lease.job_id))

    assert read(desk, lease) == []


def test_what_the_database_cannot_store_is_replaced_or_cut(
    desk: Desk, lease: JobLease, attempt_log: AttemptLog
) -> None:
    attempt_log.info("a\0b", value="c\0d")
    attempt_log.info("x" * 10_000)
    attempt_log.info("many fields", values=["y" * 1000] * 100)
    write(desk, attempt_log)

    first, long, large = read(desk, lease)

    assert (first.message, first.data["value"]) == ("a\ufffdb", "c\ufffdd")
    assert len(long.message) == 4000
    assert list(large.data) == ["source", "fields_left_out"]
