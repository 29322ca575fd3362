"""A worker is in the registry while it runs, with its device, its job and its state."""

import signal
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from soul_store import workers
from soul_store.jobs import Scheduling
from soul_store.outbox import make_broker_client
from soul_store.placement import JobNeeds, WorkerDevice
from soul_store.settings import Settings
from soul_store.workers import RegisteredWorker
from tests.worker.conftest import Desk, Fleet
from worker.celery_app import get_own_queue
from worker.machine import count_ram_bytes, describe_cpu
from worker.registration import report


def list_workers(database: Engine) -> list[RegisteredWorker]:
    with Session(database) as session:
        return workers.list_registered(session)


def wait_for(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def get_states(database: Engine) -> list[str]:
    return [worker.state for worker in list_workers(database)]


def test_a_worker_is_listed_idle_then_busy_then_lost(fleet: Fleet, desk: Desk) -> None:
    process = fleet.start_worker()
    fleet.start_maintenance()
    wait_for(lambda: get_states(desk.database) == ["idle"])
    (worker,) = list_workers(desk.database)
    assert worker.row.name.endswith(f":{process.pid}")
    assert (worker.row.accelerator, worker.row.machine) == ("cpu", describe_cpu())
    assert worker.row.memory_bytes == count_ram_bytes()
    assert {"soul", "python", "torch"} <= worker.row.versions.keys()

    job_id = desk.submit(training={"steps": 100_000}, optimizer={"kind": "sophia", "lr": 1e-6})
    desk.wait(job_id, lambda job: job.status == "running")
    assert [(worker.state, worker.job_id) for worker in list_workers(desk.database)] == [("busy", job_id)]

    fleet.kill(process)
    wait_for(lambda: "lost" in get_states(desk.database))


def test_a_worker_that_shuts_down_leaves_the_registry(fleet: Fleet, desk: Desk) -> None:
    process = fleet.start_worker()
    wait_for(lambda: get_states(desk.database) == ["idle"])

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)

    assert get_states(desk.database) == []


def test_a_job_whose_message_reached_no_worker_is_claimed_by_an_idle_one(
    fleet: Fleet, desk: Desk, settings_env: Settings
) -> None:
    """Without the maintenance process no message is sent: the worker finds the job itself."""
    fleet.start_worker()
    wait_for(lambda: get_states(desk.database) == ["idle"])

    job_id = desk.submit(training={"steps": 1})

    assert desk.wait_end(job_id, seconds=60).status == "succeeded"


@pytest.mark.parametrize(("needs", "num_messages"), [(JobNeeds(), 1), (JobNeeds("cuda"), 0)])
def test_a_report_wakes_the_worker_once_for_a_job_that_it_can_hold(
    fleet: Fleet, desk: Desk, needs: JobNeeds, num_messages: int
) -> None:
    desk.submit_scheduled(Scheduling(needs=needs))

    for _ in range(3):
        report("host:1", WorkerDevice("cpu"))

    with make_broker_client() as client:
        assert client.llen(get_own_queue("host:1")) == num_messages
