"""Pause, resume, retry, and limits: what a user requests, and what a worker learns."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from soul_store import job_leases, job_queries, jobs
from soul_store.job_leases import JobLease, StopCause
from soul_store.job_state_machine import ActionNotAllowedError, make_interval, transition
from soul_store.job_status import JobStatus
from soul_store.tables import AuditEntry, Job, OutboxEntry

NewJob = Callable[..., Job]
REASON = {"code": "crash", "message": "m", "retryable": True, "details": []}


def claim(session: Session, job: Job, *, lease_seconds: float = 60) -> JobLease:
    claimed = job_leases.claim(session, job.id, worker="w", lease_seconds=lease_seconds)
    session.commit()
    assert claimed is not None
    return JobLease(claimed.id, claimed.epoch)


def heartbeat(session: Session, lease: JobLease) -> StopCause | None:
    return job_leases.heartbeat(session, lease, lease_seconds=60)


def list_statuses(session: Session, job: Job) -> list[str]:
    return [event.data["status"] for event in job_queries.list_events(session, job.id, 0) if event.kind == "status"]


@pytest.fixture
def running(session: Session, new_job: NewJob) -> tuple[Job, JobLease]:
    job = new_job()
    return job, claim(session, job)


@pytest.fixture
def pausing(session: Session, running: tuple[Job, JobLease]) -> tuple[Job, JobLease]:
    """A running job whose pause was requested."""
    jobs.request_pause(session, running[0], "key")
    session.commit()
    return running


def test_a_queued_job_is_paused_at_once_and_resumed_with_a_message(session: Session, new_job: NewJob) -> None:
    job = new_job()
    session.execute(update(Job).values(queued_at=func.now() - make_interval(100)))

    jobs.request_pause(session, job, "key")
    assert (job.status, job.status_reason and job.status_reason["code"]) == ("paused", "paused")
    assert job_leases.claim(session, job.id, worker="w", lease_seconds=60) is None
    jobs.resume(session, job, "key")
    session.commit()

    assert list_statuses(session, job) == ["queued", "paused", "queued"]
    assert (job.status_reason, datetime.now(UTC) - job.queued_at < timedelta(seconds=50)) == (None, True)
    assert session.scalars(select(OutboxEntry.payload)).all() == [{"job_id": job.id}] * 2
    assert session.scalars(select(AuditEntry.action).where(AuditEntry.resource == job.id)).all() == [
        "job.create",
        "job.pause",
        "job.resume",
    ]


def test_a_worker_that_writes_a_checkpoint_for_a_pause_leaves_the_job_paused(
    session: Session, pausing: tuple[Job, JobLease]
) -> None:
    job, lease = pausing
    assert heartbeat(session, lease) == StopCause.PAUSE

    job_leases.release(session, lease, usage={"engine_seconds": 2.0})
    session.commit()

    assert (job.status, job.requested_action, job.attempt, job.worker) == ("paused", None, 0, None)
    assert job.usage == {"engine_seconds": 2.0}


def test_a_requested_pause_is_kept_when_the_attempt_fails_or_its_worker_is_lost(
    session: Session, new_job: NewJob
) -> None:
    failing, lost = new_job(), new_job()
    lease = claim(session, failing)
    claim(session, lost, lease_seconds=0.01)
    for job in (failing, lost):
        jobs.request_pause(session, job, "key")
    session.commit()
    time.sleep(0.05)

    job_leases.retry_or_fail(session, lease, reason=REASON, max_attempts=3, usage={})
    jobs.requeue_stalled(session, max_attempts=3)
    session.commit()

    assert [(job.status, job.attempt) for job in (failing, lost)] == [("paused", 1), ("paused", 1)]


def test_a_withdrawn_pause_lets_the_job_run_on(session: Session, pausing: tuple[Job, JobLease]) -> None:
    job, lease = pausing

    jobs.resume(session, job, "key")
    session.commit()

    assert heartbeat(session, lease) is None
    assert (job.status, job.requested_action) == ("running", None)


def test_a_cancel_replaces_a_requested_pause_and_not_the_reverse(
    session: Session, pausing: tuple[Job, JobLease]
) -> None:
    job, lease = pausing
    jobs.request_cancel(session, job, "key")
    session.commit()

    with pytest.raises(ActionNotAllowedError, match="cannot pause a job that is running, with a requested cancel"):
        jobs.request_pause(session, job, "key")

    assert heartbeat(session, lease) == StopCause.CANCEL


def test_a_paused_job_can_be_cancelled(session: Session, new_job: NewJob) -> None:
    job = jobs.request_pause(session, new_job(), "key")

    jobs.request_cancel(session, job, "key")

    assert (job.status, job.status_reason and job.status_reason["message"]) == (
        "cancelled",
        "cancelled while it was paused",
    )


@pytest.mark.parametrize(("status", "action"), [("queued", "resume"), ("queued", "retry"), ("paused", "pause")])
def test_an_action_that_the_status_does_not_allow_changes_nothing(
    session: Session, new_job: NewJob, status: str, action: str
) -> None:
    job = new_job()
    if status == "paused":
        jobs.request_pause(session, job, "key")
    version = job.version
    act = {"resume": jobs.resume, "retry": jobs.lock_for_retry, "pause": jobs.request_pause}[action]

    with pytest.raises(ActionNotAllowedError, match=f"cannot {action} a job that is {status}") as refused:
        act(session, job, "key")

    assert (job.status, job.version) == (status, version)
    assert action not in refused.value.allowed_actions


def test_an_unfinished_retry_is_not_doubled(session: Session, new_job: NewJob) -> None:
    failed, retry = new_job(), new_job()
    transition(session, failed, JobStatus.CANCELLED)
    assert jobs.lock_for_retry(session, failed, "key") is None
    retry.retry_of_job_id = failed.id
    session.commit()

    assert jobs.lock_for_retry(session, failed, "key") == retry

    transition(session, retry, JobStatus.CANCELLED)
    session.commit()
    assert jobs.lock_for_retry(session, failed, "key") is None


@pytest.fixture
def past_time() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=1)


@pytest.mark.parametrize("status", ["queued", "paused"])
def test_a_job_that_waits_beyond_its_deadline_fails_and_says_so(
    session: Session, new_job: NewJob, past_time: datetime, status: str
) -> None:
    job, other = new_job(deadline=past_time), new_job(deadline=past_time + timedelta(hours=1))
    if status == "paused":
        jobs.request_pause(session, job, "key")
        session.commit()

    assert jobs.fail_overdue(session) == [job.id]
    session.commit()

    assert job.status_reason is not None
    assert (job.status, job.status_reason["code"]) == ("failed", "deadline_exceeded")
    assert "had not started by its deadline" in job.status_reason["message"]
    assert other.status == "queued"


def test_a_worker_learns_that_the_deadline_of_its_job_has_passed(
    session: Session, new_job: NewJob, past_time: datetime
) -> None:
    job = new_job(deadline=past_time)
    lease = claim(session, job)

    assert jobs.fail_overdue(session) == [], "the worker stops the engine first"
    assert heartbeat(session, lease) == StopCause.DEADLINE


def test_gpu_seconds_count_over_all_attempts(session: Session, new_job: NewJob) -> None:
    job = new_job(max_gpu_seconds=100)
    lease = claim(session, job)
    assert heartbeat(session, lease) is None
    job_leases.release(session, lease, usage={"engine_seconds": 60.0})
    session.commit()
    lease = claim(session, job)
    assert heartbeat(session, lease) is None

    session.execute(update(Job).values(claimed_at=func.now() - make_interval(50)))

    assert heartbeat(session, lease) == StopCause.GPU_SECONDS


def test_the_seconds_of_a_lost_worker_count_as_used(session: Session, new_job: NewJob) -> None:
    job = new_job()
    claim(session, job)
    now = func.now()
    session.execute(update(Job).values(claimed_at=now - make_interval(50), lease_until=now - make_interval(10)))

    jobs.requeue_stalled(session, max_attempts=3)
    session.commit()

    assert job.usage == {"engine_seconds": 40.0}


def test_jobs_are_listed_by_all_of_the_metadata(session: Session, new_job: NewJob) -> None:
    both, first, none = new_job(), new_job(), new_job()
    both.user_metadata, first.user_metadata = {"team": "a", "run": "1"}, {"team": "a"}
    session.commit()

    def find(**metadata: str) -> list[str]:
        return [job.id for job in job_queries.list_page(session, none.tenant_id, limit=10, metadata=metadata)]

    assert find(team="a") == [first.id, both.id]
    assert find(team="a", run="1") == [both.id]
    assert find(team="b") == []
    assert find() == [none.id, first.id, both.id]
