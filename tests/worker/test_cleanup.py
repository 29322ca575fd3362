"""Data of a job on a worker's disk is removed when the job has finished, also if it finished elsewhere."""

import fcntl
import time
from pathlib import Path

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from soul_store.blobs import get_blob_store
from soul_store.settings import Settings
from soul_store.tables import Job
from tests.fixtures.blobs import put_bytes
from tests.worker.conftest import Desk, Fleet
from worker.cleanup import remove_leftovers


@pytest.fixture
def scratch(settings_env: Settings) -> Path:
    return settings_env.scratch_dir


def leave_behind(desk: Desk, scratch: Path, status: str, *, epoch: int = 2) -> str:
    """Make a job of this status whose attempts left inputs here and files in the store."""
    job_id = desk.submit()
    now = func.now()
    values = {"lease_until": now if status == "running" else None, "finished_at": None if status == "running" else now}
    with Session(desk.database) as session, session.begin():
        session.execute(update(Job).where(Job.id == job_id).values(status=status, epoch=epoch, **values))
    inputs = scratch / job_id / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "forget.jsonl").write_text("personal data")
    for number in range(1, epoch + 1):
        put_bytes(get_blob_store(), f"jobs/{job_id}/{number}/report.json", b"{}")
    return job_id


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_cleanup_removes_data_and_outputs_of_an_unsuccessful_job(desk: Desk, scratch: Path, status: str) -> None:
    job_id = leave_behind(desk, scratch, status)

    remove_leftovers(scratch)

    assert list(scratch.iterdir()) == []
    assert get_blob_store().list_keys(f"jobs/{job_id}") == []


def test_cleanup_keeps_what_a_successful_attempt_published(desk: Desk, scratch: Path) -> None:
    job_id = leave_behind(desk, scratch, "succeeded")

    remove_leftovers(scratch)

    assert list(scratch.iterdir()) == []
    assert get_blob_store().list_keys(f"jobs/{job_id}") == [f"jobs/{job_id}/2/report.json"]


def test_cleanup_keeps_the_folder_of_a_job_that_may_resume(desk: Desk, scratch: Path) -> None:
    job_id = leave_behind(desk, scratch, "running")

    remove_leftovers(scratch)

    assert (scratch / job_id / "inputs" / "forget.jsonl").exists()


def test_cleanup_keeps_a_folder_of_a_job_not_in_this_database(desk: Desk, scratch: Path) -> None:
    (scratch / "job_of_another_service").mkdir(parents=True)

    remove_leftovers(scratch)

    assert (scratch / "job_of_another_service").exists()


def test_a_worker_runs_the_cleanup_by_itself(desk: Desk, fleet: Fleet, scratch: Path) -> None:
    job_id = leave_behind(desk, scratch, "cancelled")

    fleet.start_worker()

    deadline = time.monotonic() + 120
    while (scratch / job_id).exists():
        assert time.monotonic() < deadline, fleet.log("worker")
        time.sleep(0.2)
    assert get_blob_store().list_keys(f"jobs/{job_id}") == []


def test_cleanup_keeps_a_folder_that_an_attempt_still_locks(desk: Desk, scratch: Path) -> None:
    job_id = leave_behind(desk, scratch, "failed")

    with (scratch / f"{job_id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(scratch)

        assert (scratch / job_id).exists()
