"""A job through a real worker process, to each kind of end."""

import json
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from api.store import datasets
from api.store.blobs import LocalBlobs, StorageFull, Stored, blobs
from api.store.settings import Settings
from api.store.tables import Artifact
from tests.worker.conftest import Desk, Fleet
from tests.worker.processes import engines_of


def test_a_job_runs_to_its_artifacts_and_leaves_no_data_behind(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    fleet.start_worker()
    fleet.start_keeper()
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
    with blobs().open(job.report_blob) as content:
        assert json.load(content)["job_id"] == job_id
    assert not (settings_env.scratch_dir / job_id).exists()


def test_a_running_job_that_is_cancelled_stops_and_keeps_nothing(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    fleet.start_worker()
    fleet.start_keeper()
    job_id = desk.submit(training={"steps": 100_000}, optimizer={"kind": "sophia", "lr": 1e-6})
    desk.wait_step(job_id, 5)

    desk.cancel(job_id)
    job = desk.wait_end(job_id, seconds=15)

    assert job.status == "cancelled"
    assert engines_of(job_id) == []
    deadline = time.monotonic() + 5
    while (settings_env.scratch_dir / job_id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert blobs().keys(f"jobs/{job_id}") == []


def test_a_row_longer_than_the_context_fails_the_job_for_good_and_names_the_row(
    fleet: Fleet, desk: Desk, database: Engine, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    rows = [{"messages": [{"role": "user", "content": "q"}], "completion": "word " * n, "number": n} for n in (3, 500)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Session(database) as session, session.begin():
        desk.datasets["forget"] = datasets.create(
            session,
            tenant_id=desk.tenant_id,
            actor=desk.key_id,
            name="long",
            file_format="jsonl",
            mapping={},
            status="ready",
            blob=blobs().put_file("datasets/long.jsonl", long).key,
            num_rows=2,
        ).id
    fleet.start_worker()
    fleet.start_keeper()

    job = desk.wait_end(desk.submit())

    assert (job.status, job.attempt) == ("failed", 0)
    assert job.status_reason is not None
    assert job.status_reason["code"] == "bad_data"
    assert job.status_reason["retryable"] is False
    assert [detail.split(":")[0] for detail in job.status_reason["details"]] == ["row 500"]


def test_a_full_disk_at_publishing_leaves_no_half_result_and_a_clear_reason(
    desk: Desk, settings_env: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalBlobs.put_file

    def full(self: LocalBlobs, key: str, path: Path) -> Stored:
        if key.endswith("model.safetensors"):
            msg = f"no room for {key}"
            raise StorageFull(msg)
        return put(self, key, path)

    monkeypatch.setattr(LocalBlobs, "put_file", full)  # the fault
    monkeypatch.setenv("SOUL_MAX_ATTEMPTS", "1")
    from api.store.settings import settings
    from worker.tasks import run_job

    settings.cache_clear()
    job_id = desk.submit()

    run_job(job_id)

    job = desk.job(job_id)
    assert job.status == "failed"
    assert job.status_reason is not None
    assert job.status_reason["code"] == "disk_full"
    assert blobs().keys(f"jobs/{job_id}") == []
    with Session(desk.database) as session:
        assert session.scalars(select(Artifact)).all() == []
