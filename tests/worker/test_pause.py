"""A job through a real worker process that is paused and resumed, and jobs that reach a limit."""

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from soul_store import jobs
from soul_store.jobs import Scheduling
from soul_store.settings import Settings
from soul_store.tables import Job
from tests.worker.conftest import LONG, Desk, Fleet
from tests.worker.processes import engines_of

ENDLESS = {"training": {"steps": 100_000}, "optimizer": {"kind": "sophia", "lr": 1e-6}}


def act(desk: Desk, job_id: str, action: str) -> None:
    with Session(desk.database) as session, session.begin():
        actions = {"pause": jobs.request_pause, "resume": jobs.resume}
        actions[action](session, session.get_one(Job, job_id), desk.key_id)


def test_a_paused_job_frees_its_worker_and_ends_with_the_same_weights(
    fleet: Fleet, desk: Desk, undisturbed_sha256: str
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    paused_id = desk.submit(**LONG)
    desk.wait_step(paused_id, 30)

    act(desk, paused_id, "pause")
    paused = desk.wait(paused_id, lambda job: job.status == "paused", seconds=60)
    other_id = desk.submit(training={"steps": 1})  # the worker is free
    assert desk.wait_end(other_id).status == "succeeded"
    assert desk.job(paused_id).status == "paused"
    act(desk, paused_id, "resume")
    ended = desk.wait_end(paused_id)

    assert (paused.requested_action, engines_of(paused_id)) == (None, [])
    assert desk.weights_sha256(paused_id) == undisturbed_sha256
    assert (ended.attempt, ended.epoch) == (0, 2)
    assert desk.statuses(paused_id) == ["queued", "running", "paused", "queued", "running", "succeeded"]


def test_a_job_that_reaches_a_limit_is_stopped_and_keeps_nothing(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    limited_id = desk.submit_scheduled(Scheduling(max_gpu_seconds=6), **ENDLESS)
    limited = desk.wait_end(limited_id, seconds=60)
    late_id = desk.submit_scheduled(Scheduling(deadline=datetime.now(UTC) + timedelta(seconds=6)), **ENDLESS)
    late = desk.wait_end(late_id, seconds=60)

    for job, code in ((limited, "gpu_seconds_exceeded"), (late, "deadline_exceeded")):
        assert job.status_reason is not None
        assert (job.status, job.status_reason["code"]) == ("failed", code)
        assert desk.statuses(job.id) == ["queued", "running", "failed"]
        assert engines_of(job.id) == []
        assert job.usage["engine_seconds"] > 2
        assert not (settings_env.scratch_dir / job.id).exists()
