"""The order of the queue: priorities, turns of projects, aging; claims that fit; positions."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, update
from sqlalchemy.orm import Session

from soul_store import job_leases, job_queue, jobs
from soul_store.job_leases import JobLease
from soul_store.job_priority import JobPriority
from soul_store.job_state_machine import make_interval
from soul_store.jobs import Scheduling
from soul_store.placement import JobNeeds, WorkerDevice
from soul_store.settings import Settings
from soul_store.tables import Job
from tests.soul_store.conftest import Owner, insert_job, make_owner

LOW, NORMAL, HIGH = JobPriority
CPU = WorkerDevice("cpu", memory_bytes=8 << 30, ram_bytes=8 << 30)


@dataclass
class Queue:
    """Submits, claims and ends jobs of several projects."""

    session: Session
    owners: dict[str, Owner]

    def submit(self, project: str, priority: JobPriority = NORMAL, **scheduling: Any) -> Job:
        return insert_job(self.session, self.owners[project], Scheduling(priority, **scheduling))

    def set_waited(self, job: Job, seconds: float) -> None:
        queued_at = func.now() - make_interval(seconds)
        self.session.execute(update(Job).where(Job.id == job.id).values(queued_at=queued_at))
        self.session.commit()

    def claim(self, device: WorkerDevice = CPU) -> Job | None:
        job = job_queue.claim_next(self.session, worker="w", device=device, lease_seconds=60)
        self.session.commit()
        return job

    def end(self, job: Job, *, seconds: float) -> None:
        reason = {"code": "c", "message": "m", "retryable": False, "details": []}
        job_leases.fail(self.session, JobLease(job.id, job.epoch), reason=reason, usage={"engine_seconds": seconds})
        self.session.commit()

    def name(self, job: Job | None) -> str | None:
        """Return the project of a job."""
        return next((name for name, owner in self.owners.items() if job and owner.tenant_id == job.tenant_id), None)


@pytest.fixture
def queue(session: Session) -> Queue:
    return Queue(session, {name: make_owner(session, name) for name in ("a", "b", "c")})


def test_a_higher_priority_is_claimed_first(queue: Queue) -> None:
    submitted = [queue.submit("a", priority) for priority in (NORMAL, LOW, HIGH, NORMAL)]

    claimed = [queue.claim() for _ in submitted]

    assert claimed == [submitted[2], submitted[0], submitted[3], submitted[1]]


def test_projects_take_turns_at_the_same_priority(queue: Queue) -> None:
    for project in "aaaabbc":
        queue.submit(project)

    claimed = [queue.name(queue.claim()) for _ in range(7)]

    assert [sorted(map(str, claimed[first:end])) for first, end in ((0, 3), (3, 5), (5, 7))] == [
        ["a", "b", "c"],
        ["a", "b"],
        ["a", "a"],
    ]


def test_with_one_worker_projects_share_its_seconds_equally(queue: Queue) -> None:
    """A project of long jobs and one of short ones: each gets half of the time, however many jobs it submits."""
    seconds = {"a": 100.0, "b": 25.0}
    for _ in range(20):
        queue.submit("a")
        queue.submit("b")
    used = dict.fromkeys(seconds, 0.0)

    for _ in range(20):
        job = queue.claim()
        assert job is not None
        project = queue.name(job)
        queue.end(job, seconds=seconds[str(project)])
        used[str(project)] += seconds[str(project)]

    assert abs(used["a"] - used["b"]) <= max(seconds.values())


def test_use_from_before_the_window_is_forgotten(queue: Queue) -> None:
    heavy, light = queue.submit("a"), queue.submit("b")
    for job, seconds in ((queue.claim(), 1000.0), (queue.claim(), 1.0)):
        assert job is not None
        queue.end(job, seconds=seconds)
    queue.submit("a")
    queue.submit("b")
    before = queue.claim()
    assert before is not None
    queue.end(before, seconds=0)
    outside = func.now() - job_queue.USAGE_WINDOW - make_interval(1)
    queue.session.execute(update(Job).where(Job.id == heavy.id).values(finished_at=outside))

    after = queue.claim()

    assert (queue.name(before), queue.name(after)) == ("b", "a")
    assert light.finished_at is not None


def test_no_job_starves_behind_a_stream_of_higher_priority(queue: Queue, settings_env: Settings) -> None:
    """One low job of a project that used much, against fresh high jobs of idle projects, a new one for each claim."""
    used = queue.submit("a")
    assert queue.claim() == used
    queue.end(used, seconds=1e6)
    starving, num_claims = queue.submit("a", LOW), 0
    aging = settings_env.priority_aging_seconds

    while starving.status == "queued" and num_claims < 20:
        num_claims += 1
        queue.set_waited(starving, num_claims * aging / 2)
        queue.submit("b", HIGH)
        job = queue.claim()
        assert job is not None
        queue.end(job, seconds=1)
        queue.session.refresh(starving)

    assert starving.status == "failed", "it was claimed, and ended by this test"
    assert num_claims == 6, "after three aging periods: it is one level above a new job of high priority"


def test_a_worker_skips_what_it_cannot_hold(queue: Queue) -> None:
    queue.submit("a", HIGH, needs=JobNeeds("cuda"))
    queue.submit("a", HIGH, needs=JobNeeds(None, 9 << 30))
    fitting = queue.submit("a", LOW, needs=JobNeeds(None, 8 << 30))

    assert queue.claim() == fitting
    assert queue.claim() is None
    assert job_queue.find_waiting_job(queue.session, worker="other", device=CPU) is None


def test_an_idle_worker_finds_a_job_that_another_worker_could_not_hold(queue: Queue) -> None:
    job = queue.submit("a", needs=JobNeeds("cuda"))
    gpu = WorkerDevice("cuda")

    assert queue.claim(CPU) is None, "its message is lost on this worker"
    assert job_queue.find_waiting_job(queue.session, worker="w", device=gpu) == job.id

    queue.claim(gpu)
    queue.submit("a", needs=JobNeeds("cuda"))
    assert job_queue.find_waiting_job(queue.session, worker="w", device=gpu) is None, "it is busy"


def test_workers_that_claim_at_once_take_different_jobs_by_turns(database: Engine, queue: Queue) -> None:
    for project in "aaaabbbb":
        queue.submit(project)
    queue.session.commit()

    def claim(worker: int) -> str | None:
        with Session(database) as session, session.begin():
            job = job_queue.claim_next(session, worker=str(worker), device=CPU, lease_seconds=60)
            return job.id if job else None

    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(claim, range(8)))

    assert None not in claimed
    assert len(set(claimed)) == 8


def test_positions_are_the_order_in_which_jobs_are_claimed(queue: Queue) -> None:
    submitted = [queue.submit(project, priority) for project in "aab" for priority in (LOW, HIGH, NORMAL)]
    positions = job_queue.list_positions(queue.session)

    claimed = [job for _ in submitted if (job := queue.claim())]

    assert sorted(positions.values()) == list(range(9))
    assert [job.id for job in claimed] == sorted(positions, key=lambda job_id: positions[job_id])


def test_positions_of_a_list_take_one_query(database: Engine, queue: Queue) -> None:
    submitted: Sequence[Job] = [queue.submit("a") for _ in range(30)]
    for job in submitted:
        queue.session.refresh(job)
    statements: list[str] = []
    connection = queue.session.connection()
    event.listen(connection, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    positions = job_queue.list_positions(queue.session)

    assert len(positions) == 30
    assert len(statements) == 1


def test_a_paused_job_is_not_in_the_queue(queue: Queue, new_job: Callable[[], Job]) -> None:
    paused, queued = queue.submit("a"), queue.submit("a")
    jobs.request_pause(queue.session, paused, "key")
    queue.session.commit()

    assert job_queue.list_positions(queue.session) == {queued.id: 0}
    assert queue.claim() == queued
    assert queue.claim() is None
