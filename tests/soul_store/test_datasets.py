"""Which job prevents the deletion of a data set."""

from collections.abc import Callable

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from soul_store import datasets
from soul_store.job_status import JobStatus
from soul_store.tables import Dataset, Job
from tests.soul_store.conftest import Owner, make_owner

NewJob = Callable[[], Job]


@pytest.fixture
def dataset(session: Session, owner: Owner) -> Dataset:
    return session.get_one(Dataset, owner.dataset_id)


@pytest.mark.parametrize("status", JobStatus)
def test_an_unfinished_job_needs_its_data_sets(
    session: Session, dataset: Dataset, new_job: NewJob, status: JobStatus
) -> None:
    job = new_job()
    times = {"lease_until": func.now() if status == JobStatus.RUNNING else None}
    times["finished_at"] = func.now() if status.is_terminal else None
    session.execute(update(Job).values(status=status, **times))

    assert datasets.find_unfinished_job(session, dataset) == (None if status.is_terminal else job.id)


def test_a_job_on_other_data_sets_does_not_need_it(session: Session, dataset: Dataset, new_job: NewJob) -> None:
    new_job()
    session.execute(update(Job).values(datasets={"forget": "ds_other", dataset.id: "ds_another"}))

    assert datasets.find_unfinished_job(session, dataset) is None


def test_jobs_of_another_tenant_are_not_read(session: Session, dataset: Dataset, new_job: NewJob) -> None:
    job, other = new_job(), make_owner(session, "other")
    session.execute(update(Job).values(tenant_id=other.tenant_id))
    assert session.scalar(select(Job.datasets).where(Job.id == job.id)) == {"forget": dataset.id}

    assert datasets.find_unfinished_job(session, dataset) is None


def test_the_query_uses_the_index_of_unfinished_jobs(session: Session, dataset: Dataset, new_job: NewJob) -> None:
    new_job()
    session.refresh(dataset)
    plans: list[str] = []
    connection = session.connection().connection.driver_connection
    assert connection is not None
    connection.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    session.execute(text("LOAD 'auto_explain'"))
    for setting in ("auto_explain.log_min_duration = 0", "auto_explain.log_level = notice", "enable_seqscan = off"):
        session.execute(text(f"SET LOCAL {setting}"))

    datasets.find_unfinished_job(session, dataset)
    session.rollback()  # the plan is sent when the statement's portal is closed

    assert "ix_jobs_tenant_id_unfinished" in plans[-1]
