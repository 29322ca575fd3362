"""`soul logs` against a real server: pages, attempts, following a running job."""

import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from soul_cli import job_logs as client_logs
from soul_cli.job_logs import format_log_line
from soul_cli.resources import LogLine
from soul_store import job_leases, job_logs
from soul_store.job_leases import JobLease
from tests.soul_cli.test_cli import Soul, files, queued_job, soul

__all__ = ["files", "queued_job", "soul"]

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def lease(queued_job: dict[str, Any], database: Engine) -> JobLease:
    with Session(database) as session, session.begin():
        job = job_leases.claim(session, queued_job["id"], worker="w", lease_seconds=60)
        assert job is not None
        return JobLease(job.id, job.epoch)


def write(database: Engine, lease: JobLease, *numbers: int) -> None:
    lines = [job_logs.LogLine(seq, lease.epoch, AT, "info", f"line {seq}", {"source": "engine"}) for seq in numbers]
    with Session(database) as session, session.begin():
        job_logs.append(session, lease, lines, left_out=range(0))


def test_a_log_of_several_pages_is_read_completely(
    soul: Soul, database: Engine, lease: JobLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_logs, "PAGE_LINES", 2)
    write(database, lease, 1, 2, 3, 4)

    lines = soul("logs", lease.job_id, "--json").stdout.splitlines()

    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4]


def test_a_log_is_printed_with_attempt_time_level_and_source(soul: Soul, database: Engine, lease: JobLease) -> None:
    write(database, lease, 1, 2, 3)

    output = soul("logs", lease.job_id, "--tail", "2", "--attempt", "1").stdout

    assert output == ("attempt 1, 2026-01-02\n03:04:05 info     engine: line 2\n03:04:05 info     engine: line 3\n")


def test_following_prints_new_lines_until_the_job_has_finished(
    soul: Soul, database: Engine, lease: JobLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_logs, "POLL_SECONDS", 0.1)
    write(database, lease, 1, 2)

    def finish() -> None:
        time.sleep(0.5)
        write(database, lease, 3)
        with Session(database) as session, session.begin():
            job_leases.cancel(session, lease, usage={})

    other = threading.Thread(target=finish)
    other.start()
    lines = soul("logs", lease.job_id, "--follow", "--tail", "1", "--json").stdout.splitlines()
    other.join()

    assert [json.loads(line)["seq"] for line in lines] == [2, 3]


def test_an_exception_is_shown_with_its_frames_and_causes() -> None:
    exceptions = [
        {"type": "ValueError", "frames": ["soul_core/run.py:3 in run"]},
        {"type": "OSError", "frames": ["x.py:1 in read"]},
    ]
    line = LogLine(
        seq=1,
        attempt=1,
        at=AT,
        level="error",
        message="failed",
        source="engine",
        exceptions=exceptions,
        argv=["-m", "x"],
    )

    assert format_log_line(line) == (
        '03:04:05 error    engine: failed argv=["-m", "x"]\n'
        "    ValueError\n"
        "      soul_core/run.py:3 in run\n"
        "    caused by OSError\n"
        "      x.py:1 in read"
    )
