"""The registry of workers, and which of them can hold a job."""

from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from soul_store import job_queue, workers
from soul_store.job_state_machine import make_interval
from soul_store.placement import Accelerator, JobNeeds, WorkerDevice, can_hold, fits
from soul_store.settings import Settings
from soul_store.tables import Job, Worker
from soul_store.workers import WorkerState

CPU, GPU = WorkerDevice("cpu", "Xeon"), WorkerDevice("cuda", "H100")
GIB = 1 << 30


def set_last_report(session: Session, name: str, *, seconds_ago: float) -> None:
    seen_at = func.clock_timestamp() - make_interval(seconds_ago)
    session.execute(update(Worker).where(Worker.name == name).values(seen_at=seen_at))


def get_states(session: Session) -> dict[str, WorkerState]:
    return {worker.row.name: worker.state for worker in workers.list_registered(session)}


def test_without_workers_the_accelerator_is_unknown(session: Session) -> None:
    assert workers.get_best_accelerator(session) is None


def test_the_fastest_accelerator_of_the_fleet_counts(session: Session) -> None:
    workers.record(session, name="a", device=CPU)
    assert workers.get_best_accelerator(session) == "cpu"

    workers.record(session, name="b", device=GPU)
    assert workers.get_best_accelerator(session) == "cuda"


def test_a_worker_that_was_lost_long_ago_does_not_count(session: Session, settings_env: Settings) -> None:
    workers.record(session, name="a", device=GPU)
    workers.record(session, name="b", device=CPU)
    set_last_report(session, "a", seconds_ago=settings_env.worker_expiry_seconds + 1)

    assert workers.get_best_accelerator(session) == "cpu"
    assert list(get_states(session)) == ["b"]
    assert workers.remove_expired(session) == 1
    assert session.scalars(select(Worker.name)).all() == ["b"]


def test_a_report_renews_a_worker_and_keeps_its_start(session: Session, settings_env: Settings) -> None:
    workers.record(session, name="a", device=CPU)
    started_at = session.scalars(select(Worker.started_at)).one()
    set_last_report(session, "a", seconds_ago=settings_env.lease_seconds + 1)

    workers.record(session, name="a", device=GPU, versions={"soul": "1"}, load=0.5)

    (worker,) = workers.list_registered(session)
    assert (worker.state, worker.row.accelerator, worker.row.load) == ("idle", "cuda", 0.5)
    assert worker.row.started_at == started_at


def test_the_state_of_a_worker_follows_from_its_reports_and_its_job(
    session: Session, settings_env: Settings, new_job: Callable[[], Job]
) -> None:
    for name in ("idle", "busy", "draining", "lost"):
        workers.record(session, name=name, device=CPU, is_draining=name == "draining")
    job = new_job()
    assert job_queue.claim_next(session, worker="busy", device=CPU, lease_seconds=60) is not None
    set_last_report(session, "lost", seconds_ago=settings_env.lease_seconds + 1)

    listed = workers.list_registered(session)

    assert get_states(session) == {name: name for name in ("busy", "draining", "idle", "lost")}
    assert [worker.job_id for worker in listed] == [job.id, None, None, None]
    assert listed[0].job_since is not None


def test_a_worker_that_ends_in_order_leaves_the_list(session: Session) -> None:
    workers.record(session, name="a", device=CPU)

    workers.remove(session, "a")

    assert workers.list_registered(session) == []


SIZES = (None, 1 * GIB, 2 * GIB)
NEEDS = [JobNeeds(*pair) for pair in product((None, *get_args(Accelerator)), SIZES)]


@pytest.mark.parametrize("memory_bytes", SIZES)
@pytest.mark.parametrize("accelerator", get_args(Accelerator))
def test_a_worker_claims_exactly_the_jobs_that_it_can_hold(
    session: Session, new_job: Callable[..., Job], accelerator: Accelerator, memory_bytes: int | None
) -> None:
    """The rule in SQL, by which jobs are claimed, is the one in Python, which says why a job waits."""
    device = WorkerDevice(accelerator, memory_bytes=memory_bytes, ram_bytes=1 * GIB)
    jobs_by_id = {new_job(needs=needs).id: needs for needs in NEEDS}

    held = set(session.scalars(select(Job.id).where(fits(device))))

    assert held == {job_id for job_id, needs in jobs_by_id.items() if can_hold(device, needs)}
    assert held


@pytest.mark.parametrize(
    ("devices", "needs", "code", "words"),
    [
        ([], JobNeeds(), "no_worker", "no worker is running"),
        ([CPU], JobNeeds("cuda"), "no_suitable_worker", "needs a GPU"),
        (
            [WorkerDevice("cuda", memory_bytes=8 * GIB), WorkerDevice("cpu", memory_bytes=64 * GIB)],
            JobNeeds("cuda", 16 * GIB),
            "no_suitable_worker",
            "about 16.0 GiB of memory, and the largest running worker has 8.0 GiB",
        ),
    ],
    ids=["no worker", "no GPU", "too small"],
)
def test_why_no_worker_can_hold_a_job_is_said_with_sizes(
    devices: list[WorkerDevice], needs: JobNeeds, code: str, words: str
) -> None:
    reason = workers.find_waiting_reason(devices, needs)

    assert reason is not None
    assert reason[0] == code
    assert words in reason[1]


def test_a_job_that_a_worker_can_hold_has_no_reason_to_wait() -> None:
    assert workers.find_waiting_reason([CPU, GPU], JobNeeds("cuda", 100 * GIB)) is None
