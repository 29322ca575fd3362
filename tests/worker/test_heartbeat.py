"""The heartbeat survives errors, and a heartbeat that does not counts as a lost lease."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from soul_store import job_leases
from soul_store.job_leases import JobLease, LeaseLostError
from tests.worker.conftest import Desk
from worker.heartbeat import Heartbeat


@pytest.fixture
def lease(desk: Desk) -> JobLease:
    job_id = desk.submit()
    with Session(desk.database) as session, session.begin():
        job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
        assert job is not None
        return JobLease(job.id, job.epoch)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unexpected_error_is_logged_and_the_heartbeat_continues(
    desk: Desk, lease: JobLease, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = iter([OSError("too many open files"), OSError("too many open files")])
    beat = job_leases.heartbeat

    def fail_twice(session: Session, lease: JobLease, *, lease_seconds: float) -> str | None:
        for error in errors:
            raise error
        return beat(session, lease, lease_seconds=lease_seconds)

    monkeypatch.setattr(job_leases, "heartbeat", fail_twice)  # the fault
    desk.cancel(lease.job_id)

    with Heartbeat(lease, lease_seconds=0.3) as heartbeat:
        wait_until(lambda: heartbeat.stop_cause == "cancel")
        is_lost = heartbeat.is_lease_lost

    assert not is_lost
    output = capsys.readouterr().err
    assert output.count("heartbeat failed") == 1, "a series of equal errors is logged once"
    assert "Traceback" in output
    assert "OSError: too many open files" in output


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_heartbeat_counts_as_a_lost_lease(lease: JobLease, monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_thread(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(job_leases, "heartbeat", exit_thread)  # the fault: what no handler catches

    with Heartbeat(lease, lease_seconds=0.3) as heartbeat:
        wait_until(lambda: heartbeat.is_lease_lost)

        with pytest.raises(LeaseLostError):
            heartbeat.raise_if_lease_lost()


def test_a_job_that_runs_under_another_epoch_is_a_lost_lease(desk: Desk, lease: JobLease) -> None:
    with Session(desk.database) as session, session.begin():
        job_leases.release(session, lease, usage={})

    with Heartbeat(lease, lease_seconds=0.3) as heartbeat:
        wait_until(lambda: heartbeat.is_lease_lost)
