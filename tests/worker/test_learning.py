"""What a worker records of a job for later estimates."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_leases
from soul_store.job_leases import JobLease
from soul_store.tables import JobCost, Model
from tests.worker.conftest import Desk
from worker import tasks
from worker.machine import describe_cpu
from worker.tasks import run_job


def list_costs(desk: Desk) -> list[JobCost]:
    with Session(desk.database) as session:
        return list(session.scalars(select(JobCost)))


def test_a_finished_job_records_its_cost_by_phase(desk: Desk) -> None:
    job_id = desk.submit(attacks=[{"kind": "quantize"}])

    run_job.run(job_id)

    (cost,) = list_costs(desk)
    assert (cost.accelerator, cost.machine, cost.dtype) == ("cpu", describe_cpu(), "auto")
    assert cost.seconds.keys() == cost.work.keys()
    assert cost.seconds.keys() == {"start", "load", "baseline", "unlearn", "evaluate", "attack", "export"}
    assert sum(cost.seconds.values()) == pytest.approx(desk.job(job_id).usage["engine_seconds"], rel=0.05)
    assert (cost.steps, cost.num_attacks) == (20, 1)
    assert cost.peak_memory_bytes is not None
    assert cost.peak_memory_bytes > 1e7


def test_a_resumed_job_records_only_the_phases_of_its_last_attempt(desk: Desk) -> None:
    job_id = desk.submit()
    with Session(desk.database) as session, session.begin():
        job = job_leases.claim(session, job_id, worker="w", lease_seconds=60)
        assert job is not None
        lease = JobLease(job_id, job.epoch)
        events = [Event(kind="phase", data={"phase": phase}) for phase in ("load", "baseline", "unlearn")]
        job_leases.record_events(session, lease, events)
        job_leases.release(session, lease, usage={})

    run_job.run(job_id)

    (cost,) = list_costs(desk)
    assert cost.seconds.keys() == {"evaluate", "export"}
    assert cost.peak_memory_bytes is None


def test_a_job_that_fails_or_is_cancelled_records_no_cost(desk: Desk) -> None:
    failing, cancelled = desk.submit(), desk.submit()
    desk.cancel(cancelled)
    with Session(desk.database) as session, session.begin():
        session.get_one(Model, desk.model_id).location = "/no/such/model"

    run_job.run(failing)
    run_job.run(cancelled)

    assert [desk.job(job_id).status for job_id in (failing, cancelled)] == ["failed", "cancelled"]
    assert list_costs(desk) == []


def test_a_job_whose_cost_is_unknown_still_succeeds(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tasks, "make_job_cost", fail)  # the fault: an error in our own code
    job_id = desk.submit(training={"steps": 1})

    run_job.run(job_id)

    assert desk.job(job_id).status == "succeeded"
    assert list_costs(desk) == []
