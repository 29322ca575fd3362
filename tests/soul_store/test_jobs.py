"""The state machine: allowed transitions, who may write, and the rows written with a transition."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from soul_core.events import Event
from soul_store import job_leases, job_queries, job_queue, job_state_machine, jobs
from soul_store.job_leases import JobLease, LeaseLostError
from soul_store.job_status import TERMINAL_STATUSES, TRANSITIONS, JobStatus, list_allowed_actions
from soul_store.tables import Artifact, AuditEntry, Job, JobEvent, JobMetric, OutboxEntry
from tests.soul_store.conftest import Owner, make_owner

NewJob = Callable[[], Job]
USAGE = {"engine_seconds": 1.5}
REASON = {"code": "diverged", "message": "m", "retryable": False, "details": []}


@pytest.fixture
def running(session: Session, new_job: NewJob) -> Job:
    job = job_leases.claim(session, new_job().id, worker="w", lease_seconds=60)
    session.commit()
    assert job is not None
    return job


def statuses(session: Session, job_id: str) -> list[str]:
    return [event.data["status"] for event in job_queries.list_events(session, job_id, 0) if event.kind == "status"]


def test_every_status_has_transitions() -> None:
    assert set(TRANSITIONS) == set(JobStatus)


def test_of_a_finished_job_only_a_retry_can_be_requested() -> None:
    assert {"succeeded", "failed", "cancelled"} == TERMINAL_STATUSES
    assert {action for status in TERMINAL_STATUSES for action in list_allowed_actions(status)} == {"retry"}
    assert all("cancel" in list_allowed_actions(status) for status in set(JobStatus) - TERMINAL_STATUSES)


@pytest.mark.parametrize("status", JobStatus)
def test_only_the_transitions_of_the_table_are_possible(session: Session, new_job: NewJob, status: JobStatus) -> None:
    became = set()
    for follower in JobStatus:
        job = new_job()
        now = func.now()
        values = {"lease_until": now if status == JobStatus.RUNNING else None}
        values["finished_at"] = now if status.is_terminal else None
        session.execute(update(Job).where(Job.id == job.id).values(status=status, **values))
        session.refresh(job)
        with contextlib.suppress(AssertionError):
            job_state_machine.transition(session, job, follower)
            became.add(follower)
        assert (job.status == follower) == (follower in became or follower == status)

    assert became == TRANSITIONS[status]


def test_insert_writes_row_event_audit_entry_and_message_together(
    session: Session, owner: Owner, new_job: NewJob
) -> None:
    job = new_job()

    assert job.status == "queued"
    assert statuses(session, job.id) == ["queued"]
    assert session.scalars(select(OutboxEntry.payload)).all() == [{"job_id": job.id}]
    actions = session.scalars(select(AuditEntry.action).where(AuditEntry.resource == job.id)).all()
    assert actions == ["job.create"]


def test_a_rolled_back_insert_leaves_no_row(session: Session, owner: Owner) -> None:
    jobs.insert(
        session,
        tenant_id=owner.tenant_id,
        created_by=owner.key_id,
        name="j",
        model_id=owner.model_id,
        datasets={},
        spec={},
        spec_sha256="0",
    )
    session.rollback()

    for table in (Job, JobEvent, OutboxEntry):
        assert session.scalar(select(func.count()).select_from(table)) == 0


def test_two_workers_that_race_for_a_job_claim_it_once(database: Engine, new_job: NewJob) -> None:
    job_id = new_job().id

    def claim(worker: str) -> bool:
        with Session(database) as session, session.begin():
            return job_leases.claim(session, job_id, worker=worker, lease_seconds=60) is not None

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim, map(str, range(8))))

    assert claims.count(True) == 1


def test_a_claim_raises_the_epoch_and_takes_a_lease(running: Job) -> None:
    assert (running.status, running.epoch, running.worker) == ("running", 1, "w")
    assert running.lease_until is not None
    assert running.started_at is not None


@pytest.fixture
def lost_lease(session: Session, running: Job) -> JobLease:
    """The lease of a worker whose job another worker has claimed since."""
    lease = JobLease(running.id, running.epoch)
    job_leases.release(session, lease, usage={})
    assert job_leases.claim(session, running.id, worker="other", lease_seconds=60) is not None
    session.commit()
    return lease


WRITES: dict[str, Callable[[Session, JobLease], object]] = {
    "heartbeat": lambda session, lease: job_leases.heartbeat(session, lease, lease_seconds=60),
    "record_events": lambda session, lease: job_leases.record_events(session, lease, [Event(kind="log")]),
    "succeed": lambda session, lease: job_leases.succeed(
        session, lease, verdict="passed", report_blob="r", artifacts=[], usage=USAGE
    ),
    "fail": lambda session, lease: job_leases.fail(session, lease, reason=REASON, usage=USAGE),
    "cancel": lambda session, lease: job_leases.cancel(session, lease, usage=USAGE),
    "release": lambda session, lease: job_leases.release(session, lease, usage=USAGE),
    "retry_or_fail": lambda session, lease: job_leases.retry_or_fail(
        session, lease, reason=REASON, max_attempts=3, usage=USAGE
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_under_a_lost_lease_raises_and_changes_nothing(
    session: Session, running: Job, lost_lease: JobLease, write: str
) -> None:
    before = (session.scalar(select(func.count()).select_from(JobEvent)), running.version)

    with pytest.raises(LeaseLostError):
        WRITES[write](session, lost_lease)

    session.commit()
    session.refresh(running)
    assert (session.scalar(select(func.count()).select_from(JobEvent)), running.version) == before
    assert (running.status, running.worker) == ("running", "other")


def test_a_repeated_success_changes_nothing(session: Session, running: Job) -> None:
    made = job_leases.NewArtifact("report.json", f"jobs/{running.id}/1/report.json", 12, "ab")
    lease = JobLease(running.id, 1)
    job_leases.succeed(session, lease, verdict="passed", report_blob=made.blob, artifacts=[made], usage=USAGE)
    session.commit()
    session.refresh(running)
    version = running.version

    job_leases.succeed(session, lease, verdict="passed", report_blob=made.blob, artifacts=[made], usage=USAGE)

    session.commit()
    session.refresh(running)
    assert (running.status, running.version) == ("succeeded", version)
    assert session.scalars(select(Artifact.path)).all() == ["report.json"]


def test_success_shows_artifacts_verdict_and_usage_in_one_commit(session: Session, running: Job) -> None:
    made = job_leases.NewArtifact("report.json", f"jobs/{running.id}/1/report.json", 12, "ab")
    lease = JobLease(running.id, 1)

    job_leases.succeed(session, lease, verdict="passed", report_blob=made.blob, artifacts=[made], usage=USAGE)
    session.commit()

    session.refresh(running)
    assert (running.status, running.verdict, running.usage) == ("succeeded", "passed", USAGE)
    assert running.finished_at is not None
    assert running.lease_until is None
    assert session.scalars(select(Artifact.path)).all() == ["report.json"]


@pytest.mark.parametrize("status", sorted(TERMINAL_STATUSES))
def test_a_finished_job_cannot_be_cancelled(session: Session, running: Job, status: str) -> None:
    ends = {
        "succeeded": lambda: job_leases.succeed(
            session, JobLease(running.id, 1), verdict="passed", report_blob="r", artifacts=[], usage={}
        ),
        "failed": lambda: job_leases.fail(session, JobLease(running.id, 1), reason=REASON, usage={}),
        "cancelled": lambda: job_leases.cancel(session, JobLease(running.id, 1), usage={}),
    }
    ends[status]()

    with pytest.raises(job_state_machine.ActionNotAllowedError, match=f"cannot cancel a job that is {status}"):
        jobs.request_cancel(session, running, "key")


def test_a_queued_job_is_cancelled_at_once(session: Session, new_job: NewJob) -> None:
    job = jobs.request_cancel(session, new_job(), "key")
    session.commit()

    assert job.status == "cancelled"
    assert job_leases.claim(session, job.id, worker="w", lease_seconds=60) is None


def test_a_worker_receives_the_request_to_cancel_its_job(session: Session, running: Job) -> None:
    jobs.request_cancel(session, running, "key")
    jobs.request_cancel(session, running, "key")  # a second request changes nothing
    session.commit()

    assert job_leases.heartbeat(session, JobLease(running.id, 1), lease_seconds=60) == "cancel"
    events = job_queries.list_events(session, running.id, 0)
    assert [event.data for event in events if event.kind == "requested_action"] == [{"requested_action": "cancel"}]


def test_a_job_with_an_expired_lease_is_requeued(session: Session, new_job: NewJob) -> None:
    job = job_leases.claim(session, new_job().id, worker="w", lease_seconds=0.05)
    session.commit()
    assert job is not None
    time.sleep(0.1)

    assert jobs.requeue_stalled(session, max_attempts=3) == [job.id]
    session.commit()

    session.refresh(job)
    assert (job.status, job.attempt) == ("queued", 1)
    assert job.status_reason is not None
    assert job.status_reason["code"] == "worker_lost"


def test_a_job_with_a_valid_lease_is_not_requeued(session: Session, running: Job) -> None:
    assert jobs.requeue_stalled(session, max_attempts=3) == []


def test_the_third_failed_attempt_fails_the_job(session: Session, running: Job) -> None:
    session.execute(update(Job).values(attempt=2))
    session.commit()

    job_leases.retry_or_fail(session, JobLease(running.id, 1), reason=REASON, max_attempts=3, usage={})
    session.commit()

    session.refresh(running)
    assert (running.status, running.attempt) == ("failed", 3)


def test_the_second_failed_attempt_delays_the_next(session: Session, running: Job) -> None:
    session.execute(update(Job).values(attempt=1))
    session.commit()

    job_leases.retry_or_fail(session, JobLease(running.id, 1), reason=REASON, max_attempts=3, usage={})
    session.commit()

    assert job_leases.claim(session, running.id, worker="w", lease_seconds=60) is None, "it is not due yet"


def test_a_released_job_keeps_its_attempts(session: Session, running: Job) -> None:
    job_leases.release(session, JobLease(running.id, 1), usage=USAGE)
    session.commit()

    session.refresh(running)
    assert (running.status, running.attempt, running.usage) == ("queued", 0, USAGE)
    assert job_leases.claim(session, running.id, worker="w", lease_seconds=60) is not None


def test_a_stalled_job_with_a_requested_cancel_is_cancelled(session: Session, new_job: NewJob) -> None:
    job = job_leases.claim(session, new_job().id, worker="w", lease_seconds=0.05)
    assert job is not None
    jobs.request_cancel(session, job, "key")
    session.commit()
    time.sleep(0.1)

    jobs.requeue_stalled(session, max_attempts=3)
    session.commit()

    session.refresh(job)
    assert job.status == "cancelled"


@pytest.mark.parametrize("num_attempts", [0, 2])
def test_a_failed_attempt_with_a_requested_cancel_ends_cancelled(
    session: Session, running: Job, num_attempts: int
) -> None:
    session.execute(update(Job).values(attempt=num_attempts, requested_action="cancel"))
    session.commit()

    job_leases.retry_or_fail(session, JobLease(running.id, 1), reason=REASON, max_attempts=3, usage=USAGE)
    session.commit()

    session.refresh(running)
    assert (running.status, running.requested_action, running.usage) == ("cancelled", None, USAGE)


def test_a_released_job_with_a_requested_cancel_is_cancelled(session: Session, running: Job) -> None:
    jobs.request_cancel(session, running, "key")

    job_leases.release(session, JobLease(running.id, 1), usage=USAGE)
    session.commit()

    session.refresh(running)
    assert running.status == "cancelled"


def test_events_have_no_gaps_and_progress_is_not_stored_as_an_event(session: Session, running: Job) -> None:
    events = [
        Event(kind="phase", data={"phase": "unlearn"}),
        Event(kind="metrics", data={"step": 1, "loss": 2.0}),
        Event(kind="progress", data={"phase": "unlearn", "done": 1, "total": 4, "eta_seconds": 3.0}),
        Event(kind="checkpoint", data={"step": 1}),
    ]

    job_leases.record_events(session, JobLease(running.id, 1), events)
    session.commit()

    rows = job_queries.list_events(session, running.id, 0)
    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert [row.kind for row in rows] == ["status", "status", "phase", "checkpoint"]
    session.refresh(running)
    assert running.phase == "unlearn"
    assert running.progress["fraction"] == 0.25
    assert session.scalars(select(JobMetric.values)).all() == [{"loss": 2.0}]


def test_a_step_recorded_twice_is_one_point_of_the_curve(session: Session, running: Job) -> None:
    for loss in (2.0, 1.0):
        job_leases.record_events(
            session, JobLease(running.id, 1), [Event(kind="metrics", data={"step": 1, "loss": loss})]
        )
    session.commit()

    assert [point.values for point in job_queries.list_metrics(session, running.id)] == [{"loss": 1.0}]


def test_another_tenant_sees_no_job(session: Session, new_job: NewJob) -> None:
    job, other = new_job(), make_owner(session, "other")

    assert job_queries.get(session, other.tenant_id, job.id) is None
    assert job_queries.list_page(session, other.tenant_id, limit=10) == []


def test_pages_begin_with_the_newest_job(session: Session, owner: Owner, new_job: NewJob) -> None:
    ids = [new_job().id for _ in range(3)]

    first = job_queries.list_page(session, owner.tenant_id, limit=2)
    rest = job_queries.list_page(session, owner.tenant_id, limit=2, before=first[-1].id)

    assert [job.id for job in first + rest] == ids[::-1]


def test_the_queue_position_counts_the_jobs_ahead(session: Session, new_job: NewJob) -> None:
    first, second = new_job(), new_job()

    assert job_queue.list_positions(session) == {first.id: 0, second.id: 1}


def test_messages_that_the_broker_lost_are_sent_again(session: Session, new_job: NewJob) -> None:
    job = new_job()
    session.execute(OutboxEntry.__table__.delete())
    session.commit()
    time.sleep(0.05)

    assert jobs.resend_job_messages(session, num_waiting_messages=1, silent_seconds=0.01) == [], (
        "the broker still has it"
    )
    assert jobs.resend_job_messages(session, num_waiting_messages=0, silent_seconds=60) == [], "it was written just now"
    assert jobs.resend_job_messages(session, num_waiting_messages=0, silent_seconds=0.01) == [job.id]
