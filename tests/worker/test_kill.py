"""kill -9 of any process during a job: the job resumes from its checkpoint and ends with the same weights."""

import os
import shutil
import signal
from collections.abc import Callable

import pytest

from soul_store.tables import Job
from tests.servers import Servers
from tests.worker.conftest import LONG, Desk, Fleet
from tests.worker.processes import engine_of, engines_of, kill, parent_of, wait_gone


def kill_engine(fleet: Fleet, servers: Servers, job_id: str) -> None:
    kill(engine_of(job_id))


def kill_worker(fleet: Fleet, servers: Servers, job_id: str) -> None:
    worker = fleet.processes[0]
    worker.kill()
    worker.wait()
    wait_gone(job_id)
    fleet.start_worker()


def kill_pool_child(fleet: Fleet, servers: Servers, job_id: str) -> None:
    kill(parent_of(engine_of(job_id)))
    wait_gone(job_id)


@pytest.mark.parametrize("disturb", [kill_engine, kill_worker, kill_pool_child])
def test_a_killed_job_resumes_and_ends_with_the_same_weights(
    disturb: Callable[[Fleet, Servers, str], None], fleet: Fleet, desk: Desk, servers: Servers, undisturbed_sha256: str
) -> None:
    if disturb is kill_engine:
        fleet.use_production_engine()
    fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit(**LONG)
    desk.wait_step(job_id, 40)

    disturb(fleet, servers, job_id)
    job = desk.wait_end(job_id)

    assert job.status == "succeeded", (job.status_reason, fleet.log("worker"))
    assert desk.weights_sha256(job_id) == undisturbed_sha256
    assert desk.statuses(job_id) == ["queued", "running", "queued", "running", "succeeded"]
    assert (job.epoch, job.attempt) == (2, 1)
    resumed = [event for event in desk.events(job_id) if "resumed from the checkpoint" in event.data.get("message", "")]
    assert resumed, "it started again from step 0"


@pytest.mark.parametrize("keep_data", [True, False], ids=["with its data", "without its data"])
def test_a_killed_broker_affects_no_running_job_and_loses_no_queued_one(
    keep_data: bool, fleet: Fleet, desk: Desk, servers: Servers, undisturbed_sha256: str
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    running, queued = desk.submit(**LONG), desk.submit()
    desk.wait_step(running, 20)

    assert servers.valkey.process is not None
    servers.valkey.process.kill()
    servers.valkey.process.wait()
    if not keep_data:
        shutil.rmtree(servers.valkey.folder)
    servers.valkey.start()
    first, second = desk.wait_end(running), desk.wait_end(queued)

    assert desk.weights_sha256(running) == undisturbed_sha256
    assert (first.epoch, second.status, second.epoch) == (1, "succeeded", 1), "each ran exactly once"


def test_a_draining_worker_requeues_its_job_and_another_worker_ends_it(
    fleet: Fleet, desk: Desk, undisturbed_sha256: str
) -> None:
    worker = fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit(**LONG)
    desk.wait_step(job_id, 30)

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    requeued = desk.job(job_id)
    fleet.start_worker()
    job = desk.wait_end(job_id)

    assert (requeued.status, requeued.attempt) == ("queued", 0)
    assert job.attempt == 0
    assert desk.weights_sha256(job_id) == undisturbed_sha256


def test_no_two_engines_of_a_job_run_at_once(fleet: Fleet, desk: Desk) -> None:
    fleet.start_worker()
    fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit(**LONG)
    seen: list[int] = []
    killed: list[int] = []

    def watch(job: Job) -> bool:
        seen.append(len(engines_of(job_id)))
        if job.phase == "unlearn" and (job.progress.get("step") or 0) >= 40 and not killed:
            killed.append(engine_of(job_id))
            kill(killed[0])
        return job.status == "succeeded"

    desk.wait(job_id, watch)

    assert max(seen) == 1


def test_a_worker_that_drains_before_the_checkpoint_counts_no_attempt(
    fleet: Fleet, desk: Desk, undisturbed_sha256: str
) -> None:
    fleet.use_production_engine()
    fleet.environment["SOUL_GRACE_SECONDS"] = "0.001"
    worker = fleet.start_worker()
    fleet.start_maintenance()
    job_id = desk.submit(**LONG)
    desk.wait_step(job_id, 30)
    os.kill(engine_of(job_id), signal.SIGSTOP)  # the fault: an engine that is too slow to stop

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    requeued = desk.job(job_id)
    fleet.start_worker()
    desk.wait_end(job_id)

    assert (requeued.status, requeued.attempt) == ("queued", 0)
    assert desk.weights_sha256(job_id) == undisturbed_sha256
