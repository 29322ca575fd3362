"""Estimates over HTTP, from finished jobs in the database."""

import math
import random
from typing import Any

import pytest
from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session

from soul_core.spec import JobSpec
from soul_store import job_costs, workers
from soul_store.blobs import get_blob_store
from soul_store.job_costs import NewJobCost
from soul_store.job_work import JobWork, count_work, measure_set
from soul_store.placement import WorkerDevice
from soul_store.tables import Dataset, JobCost
from tests.api.conftest import ApiClient

Body = dict[str, Any]
SMALL, LARGE = "Small CPU, 2 cores", "Large CPU, 64 cores"
SECONDS_PER_JOB, PEAK_BYTES = 40.0, 3e9


@pytest.fixture
def work(job_body: Body, session: Session) -> JobWork:
    """The work of `job_body`."""
    sets = {
        name: measure_set(session.get_one(Dataset, dataset_id), get_blob_store())
        for name, dataset_id in job_body["datasets"].items()
    }
    spec = JobSpec.model_validate(job_body["spec"]).complete(sets)
    return count_work(spec, sets, 32, num_compared_models=0)


def make_cost(job_work: JobWork, machine: str, *, slowness: float = 1.0, **values: Any) -> NewJobCost:
    """Return a finished job: every phase takes as long as the others, together `SECONDS_PER_JOB`."""
    fields = {
        "accelerator": "cpu",
        "machine": machine,
        "dtype": "auto",
        "num_parameters": 32,
        "steps": 3,
        "train_tokens": 100,
        "flops": 1e6,
        "num_attacks": 1,
        "work": job_work.by_phase,
        "seconds": dict.fromkeys(job_work.by_phase, SECONDS_PER_JOB * slowness / len(job_work.by_phase)),
        "planned_memory_bytes": job_work.planned_memory_bytes,
        "peak_memory_bytes": int(PEAK_BYTES * slowness),
    }
    return NewJobCost(**{**fields, **values})


def record(session: Session, *costs: NewJobCost) -> None:
    for cost in costs:
        job_costs.insert(session, cost)
    session.commit()


def estimate(admin: ApiClient, job_body: Body) -> Body:
    answer: Body = admin("POST", "/v1/estimates", json=job_body).json()
    assert answer["allowed"], answer
    return answer


@pytest.fixture
def thirty_jobs(session: Session, work: JobWork) -> None:
    """A fleet of small machines that has finished 30 jobs."""
    generator = random.Random(0)
    workers.record(session, name="host", device=WorkerDevice("cpu", SMALL))
    record(session, *(make_cost(work, SMALL, slowness=math.exp(generator.gauss(0, 0.1))) for _ in range(30)))


def test_before_any_job_the_constants_are_named_and_the_interval_is_wide(admin: ApiClient, job_body: Body) -> None:
    answer = estimate(admin, job_body)

    assert (answer["based_on"]["source"], answer["based_on"]["num_jobs"]) == ("constants", 0)
    low, high = answer["seconds_interval"]
    assert high / low == pytest.approx(25, rel=0.05)


@pytest.mark.usefixtures("thirty_jobs")
def test_finished_jobs_replace_the_constants(admin: ApiClient, job_body: Body) -> None:
    answer = estimate(admin, job_body)

    assert answer["seconds"] == pytest.approx(SECONDS_PER_JOB, rel=0.1)
    assert answer["seconds_interval"][0] < SECONDS_PER_JOB < answer["seconds_interval"][1] < 2 * SECONDS_PER_JOB
    assert answer["peak_memory_bytes"] == pytest.approx(PEAK_BYTES, rel=0.1)
    assert answer["peak_memory_bytes_interval"][0] < PEAK_BYTES < answer["peak_memory_bytes_interval"][1]
    assert answer["based_on"] == {
        "source": "worker_kind",
        "num_jobs": 30,
        "memory_source": "worker_kind",
        "memory_num_jobs": 30,
        "accelerator": "cpu",
        "machine": SMALL,
        "dtype": "auto",
    }
    assert f"learned from 30 finished jobs on this kind of worker ({SMALL})" in answer["basis"]


@pytest.mark.usefixtures("thirty_jobs")
def test_another_machine_or_dtype_does_not_disturb_the_estimate(
    admin: ApiClient, job_body: Body, session: Session, work: JobWork
) -> None:
    before = estimate(admin, job_body)
    record(session, *(make_cost(work, LARGE, slowness=0.02) for _ in range(60)))
    record(session, *(make_cost(work, SMALL, slowness=0.5, dtype="bfloat16") for _ in range(60)))

    assert estimate(admin, job_body) == before


@pytest.mark.usefixtures("thirty_jobs")
def test_a_new_kind_of_worker_starts_from_the_other_kinds(admin: ApiClient, job_body: Body, session: Session) -> None:
    for number in (1, 2):
        workers.record(session, name=f"new host {number}", device=WorkerDevice("cpu", LARGE))
    session.commit()

    answer = estimate(admin, job_body)

    assert (answer["based_on"]["source"], answer["based_on"]["machine"]) == ("other_kinds", LARGE)
    assert answer["seconds"] == pytest.approx(SECONDS_PER_JOB, rel=0.1)
    assert answer["seconds_interval"][1] > 4 * SECONDS_PER_JOB


def test_without_a_registered_worker_the_machine_is_that_of_the_latest_job(
    admin: ApiClient, job_body: Body, session: Session, work: JobWork
) -> None:
    record(session, make_cost(work, LARGE, slowness=9.0), make_cost(work, SMALL))

    answer = estimate(admin, job_body)

    assert answer["based_on"]["machine"] == SMALL
    assert answer["seconds"] == pytest.approx(SECONDS_PER_JOB)


BAD_ROWS: list[dict[str, Any]] = [
    {"seconds": {"unlearn": -1, "load": 0, "evaluate": "soon"}, "peak_memory_bytes": 0},
    {"seconds": {}, "work": {}, "peak_memory_bytes": None},
    {"seconds": [1, 2], "work": "all", "peak_memory_bytes": -5},
    {"work": {"nothing": 1}, "planned_memory_bytes": 0},
]


@pytest.mark.parametrize("values", BAD_ROWS, ids=["not positive", "empty", "not objects", "no common phase"])
def test_a_bad_row_changes_no_number(
    admin: ApiClient, job_body: Body, session: Session, work: JobWork, values: dict[str, Any]
) -> None:
    before = estimate(admin, job_body)
    record(session, make_cost(work, SMALL, **values))

    after = estimate(admin, job_body)

    for name in ("seconds", "seconds_interval", "peak_memory_bytes", "peak_memory_bytes_interval"):
        assert after[name] == before[name]
    assert (after["based_on"]["source"], after["based_on"]["memory_source"]) == ("constants", "constants")


@pytest.mark.usefixtures("thirty_jobs")
def test_jobs_under_an_earlier_cost_model_are_not_read(admin: ApiClient, job_body: Body, session: Session) -> None:
    session.execute(update(JobCost).values(cost_model_version=0))
    session.commit()

    assert estimate(admin, job_body)["based_on"]["source"] == "constants"


def test_an_estimate_reads_a_bounded_number_of_jobs_in_one_query(
    session: Session, database: Engine, work: JobWork
) -> None:
    record(session, *(make_cost(work, (SMALL, LARGE)[number % 2]) for number in range(300)))
    statements: list[str] = []
    event.listen(database, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    with Session(database) as reader:
        rows = job_costs.list_recent(reader, accelerator="cpu", machine=SMALL, dtype="auto")

    assert len(statements) == 1
    assert 40 <= len(rows) <= job_costs.MAX_OWN + job_costs.MAX_RECENT
    assert sum(row.machine == SMALL for row in rows) >= 40


def test_what_is_learned_refers_to_no_job_tenant_or_model() -> None:
    assert JobCost.__table__.foreign_keys == set()
    texts = {column.name for column in JobCost.__table__.columns if column.type.python_type is str}
    assert texts == {"accelerator", "machine", "dtype"}
