"""A job through a real worker process, to each kind of ending."""

import json
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from soul_store import datasets, job_leases
from soul_store.blobs import LocalBlobStore, StorageFull, StoredBlob, get_blob_store
from soul_store.settings import Settings, get_settings
from soul_store.tables import Artifact
from tests.worker.conftest import Desk, Fleet
from tests.worker.processes import engines_of
from worker.tasks import run_job
from worker.workspace import Workspace


def run_here(job_id: str) -> None:
    """Run a job in this process."""
    run_job.run(job_id)  # the function itself: no message, no broker


def test_a_job_publishes_its_artifacts_and_leaves_no_data_on_the_worker(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit()

    job = desk.wait_end(job_id)

    assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
    assert job.verdict in {"passed", "failed", "inconclusive"}
    assert desk.statuses(job_id) == ["queued", "running", "succeeded"]
    assert job.usage["engine_seconds"] > 0
    with Session(desk.database) as session:
        artifacts = {made.path: made for made in session.scalars(select(Artifact).where(Artifact.job_id == job_id))}
    assert {"report.json", "report.html", "manifest.json", "checkpoint/model.safetensors"} <= set(artifacts)
    assert job.report_blob is not None
    with get_blob_store().open(job.report_blob) as content:
        assert json.load(content)["job_id"] == job_id
    assert not (settings_env.scratch_dir / job_id).exists()


def test_a_running_job_that_is_cancelled_stops_and_publishes_nothing(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit(training={"steps": 100_000}, optimizer={"kind": "sophia", "lr": 1e-6})
    desk.wait_step(job_id, 5)

    desk.cancel(job_id)
    job = desk.wait_end(job_id, seconds=60)

    assert job.status == "cancelled"
    assert engines_of(job_id) == []
    deadline = time.monotonic() + 5
    while (settings_env.scratch_dir / job_id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert get_blob_store().list_keys(f"jobs/{job_id}") == []


def test_a_row_longer_than_the_context_fails_the_job_and_is_named(
    fleet: Fleet, desk: Desk, database: Engine, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    rows = [{"messages": [{"role": "user", "content": "q"}], "completion": "word " * n, "number": n} for n in (3, 500)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Session(database) as session, session.begin():
        desk.datasets["forget"] = datasets.insert(
            session,
            tenant_id=desk.tenant_id,
            actor=desk.key_id,
            name="long",
            file_format="jsonl",
            mapping={},
            status="ready",
            blob=get_blob_store().put_file("datasets/long.jsonl", long).key,
            num_rows=2,
        ).id
    fleet.start_worker()
    fleet.start_maintenance()

    job = desk.wait_end(desk.submit())

    assert (job.status, job.attempt) == ("failed", 0)
    assert job.status_reason is not None
    assert job.status_reason["code"] == "bad_data"
    assert job.status_reason["retryable"] is False
    assert [detail.split(":")[0] for detail in job.status_reason["details"]] == ["row 500"]


@pytest.mark.usefixtures("one_attempt")
def test_a_full_disk_while_publishing_leaves_no_output_and_is_the_reason(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalBlobStore.put_file

    def full(self: LocalBlobStore, key: str, path: Path) -> StoredBlob:
        if key.endswith("model.safetensors"):
            raise StorageFull(f"no space for {key}")
        return put(self, key, path)

    monkeypatch.setattr(LocalBlobStore, "put_file", full)  # the fault
    job_id = desk.submit()

    run_here(job_id)

    job = desk.job(job_id)
    assert job.status == "failed"
    assert job.status_reason is not None
    assert job.status_reason["code"] == "disk_full"
    assert get_blob_store().list_keys(f"jobs/{job_id}") == []
    with Session(desk.database) as session:
        assert session.scalars(select(Artifact)).all() == []


@pytest.fixture
def one_attempt(settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_MAX_ATTEMPTS", "1")
    get_settings.cache_clear()


@pytest.mark.usefixtures("one_attempt")
def test_an_unexpected_error_of_the_worker_is_the_reason(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(Workspace, "fetch_inputs", fail)  # the fault: an error in our own code
    job_id = desk.submit()

    run_here(job_id)

    job = desk.job(job_id)
    assert job.status == "failed"
    assert job.status_reason is not None
    assert job.status_reason["code"] == "worker_error"
    assert "ZeroDivisionError" in job.status_reason["message"]


@pytest.mark.usefixtures("one_attempt")
def test_an_end_whose_commit_is_not_acknowledged_is_written_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OperationalError("", {}, Exception("the connection is closed"))])
    succeed = job_leases.succeed

    def succeed_unacknowledged(session: Session, *args: object, **kwargs: object) -> None:
        succeed(session, *args, **kwargs)  # type: ignore[arg-type]
        for error in answers:
            session.commit()
            raise error

    monkeypatch.setattr(job_leases, "succeed", succeed_unacknowledged)  # the fault
    job_id = desk.submit(training={"steps": 1})

    run_here(job_id)

    job = desk.job(job_id)
    assert (job.status, job.epoch) == ("succeeded", 1), job.status_reason
    assert desk.weights_sha256(job_id), "its artifacts are still stored"
