"""A job that waits for another: claimed after it has succeeded, with its output; failed if it has none."""

from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from soul_core.spec import JobKind
from soul_store import job_leases, job_queries, job_queue, jobs, models, retrained_models
from soul_store.job_leases import JobLease
from soul_store.tables import Dataset, Job, Model, OutboxEntry
from tests.soul_store.conftest import Owner

REASON = {"code": "diverged", "message": "the loss is not finite", "retryable": False, "details": []}
SPEC = "sha256 of the retraining's spec"


@pytest.fixture
def retraining(session: Session, owner: Owner) -> Job:
    """A running fine-tuning job."""
    session.execute(update(Dataset).values(content_sha256="rows"))
    session.execute(update(Model).values(digest="weights"))
    job = jobs.insert(
        session,
        tenant_id=owner.tenant_id,
        created_by=owner.key_id,
        name="retrained",
        kind=JobKind.FINETUNE,
        model_id=owner.model_id,
        datasets={"train": owner.dataset_id},
        spec={},
        spec_sha256=SPEC,
    )
    assert job_leases.claim(session, job.id, worker="w", lease_seconds=60) is not None
    session.commit()
    return job


@pytest.fixture
def waiting(session: Session, owner: Owner, retraining: Job) -> Job:
    job = jobs.insert(
        session,
        tenant_id=owner.tenant_id,
        created_by=owner.key_id,
        name="waits",
        model_id=owner.model_id,
        datasets={"forget": owner.dataset_id},
        spec={},
        spec_sha256="0",
        depends_on=retraining,
    )
    session.commit()
    return job


@pytest.fixture
def succeed(session: Session, retraining: Job) -> Callable[[], None]:
    def end() -> None:
        prefix = f"jobs/{retraining.id}/1"
        artifacts = [
            job_leases.NewArtifact(path, f"{prefix}/{path}", 1, "ab")
            for path in ("checkpoint/config.json", "checkpoint/model.safetensors", "report.json")
        ]
        job_leases.succeed(
            session,
            JobLease(retraining.id, 1),
            verdict="failed",
            report_blob=f"{prefix}/report.json",
            artifacts=artifacts,
            usage={},
        )
        session.commit()

    return end


def messages(session: Session, job: Job) -> int:
    entries = select(func.count()).select_from(OutboxEntry).where(OutboxEntry.payload["job_id"].astext == job.id)
    return session.scalar(entries) or 0


def find_retraining(session: Session, owner: Owner, **other: str) -> Job | None:
    model = session.get_one(Model, owner.model_id)
    digests = {"train_sha256": "rows", "spec_sha256": SPEC, **other}
    return retrained_models.find_retraining_job(session, owner.tenant_id, model=model, excluded_sha256s={}, **digests)


def test_a_job_that_waits_for_another_is_not_ahead_in_the_queue(
    session: Session, new_job: Callable[[], Job], waiting: Job, succeed: Callable[[], None]
) -> None:
    later = new_job()

    before, _, after = (
        job_queue.list_positions(session)[later.id],
        succeed(),
        job_queue.list_positions(session)[later.id],
    )

    assert waiting.id < later.id
    assert (before, after) == (0, 1)


def test_a_waiting_job_is_neither_sent_nor_claimed(session: Session, waiting: Job) -> None:
    assert messages(session, waiting) == 0
    assert job_leases.claim(session, waiting.id, worker="w", lease_seconds=60) is None
    session.execute(update(Job).where(Job.id == waiting.id).values(updated_at=func.now() - func.make_interval(0, 0, 1)))
    assert jobs.resend_job_messages(session, num_waiting_messages=0, silent_seconds=0.01) == []


def test_success_starts_the_waiting_job_with_the_output_as_retrained_model(
    session: Session, retraining: Job, waiting: Job, succeed: Callable[[], None]
) -> None:
    succeed()

    session.refresh(waiting)
    model = session.get_one(Model, waiting.models["retrained"])
    assert (model.source, model.parent_job_id) == ("job", retraining.id)
    assert model.location == f"jobs/{retraining.id}/1/checkpoint"
    assert messages(session, waiting) == 1
    assert job_leases.claim(session, waiting.id, worker="w", lease_seconds=60) is not None


@pytest.mark.parametrize("end", ["failed", "cancelled", "lost"])
def test_without_a_retrained_model_the_waiting_job_fails_and_names_the_job(
    session: Session, retraining: Job, waiting: Job, end: str
) -> None:
    if end == "failed":
        job_leases.fail(session, JobLease(retraining.id, 1), reason=REASON, usage={})
    elif end == "cancelled":
        job_leases.cancel(session, JobLease(retraining.id, 1), usage={})
    else:
        job_leases.retry_or_fail(session, JobLease(retraining.id, 1), reason=REASON, max_attempts=1, usage={})
    session.commit()

    session.refresh(waiting)
    assert waiting.status == "failed"
    assert waiting.status_reason is not None
    assert waiting.status_reason["code"] == "retraining_failed"
    assert retraining.id in waiting.status_reason["message"]
    assert ("not finite" in waiting.status_reason["message"]) == (end != "cancelled")


def test_a_retraining_that_is_requeued_keeps_the_waiting_job_queued(
    session: Session, retraining: Job, waiting: Job
) -> None:
    job_leases.retry_or_fail(session, JobLease(retraining.id, 1), reason=REASON, max_attempts=3, usage={})
    session.commit()

    session.refresh(waiting)
    assert waiting.status == "queued"


def test_cancelling_the_waiting_job_does_not_cancel_the_retraining(
    session: Session, retraining: Job, waiting: Job
) -> None:
    jobs.request_cancel(session, waiting, "key")
    session.commit()

    assert waiting.status == "cancelled"
    session.refresh(retraining)
    assert (retraining.status, retraining.requested_action) == ("running", None)


def test_a_retraining_is_reused_while_it_runs_and_after_it_succeeded(
    session: Session, owner: Owner, retraining: Job, succeed: Callable[[], None]
) -> None:
    running = find_retraining(session, owner)
    succeed()
    done = find_retraining(session, owner)

    assert running is not None
    assert done is not None
    assert running.id == done.id == retraining.id


def test_a_failed_retraining_is_not_reused(session: Session, owner: Owner, retraining: Job) -> None:
    job_leases.fail(session, JobLease(retraining.id, 1), reason=REASON, usage={})

    assert find_retraining(session, owner) is None


@pytest.mark.parametrize("other", [{"train_sha256": "other rows"}, {"spec_sha256": "other settings"}])
def test_other_rows_or_settings_need_another_retraining(
    session: Session, owner: Owner, retraining: Job, other: dict[str, str]
) -> None:
    assert find_retraining(session, owner, **other) is None


def test_the_same_weights_under_another_id_are_the_same_model(session: Session, owner: Owner, retraining: Job) -> None:
    twin = Model(id="mdl_twin", tenant_id=owner.tenant_id, name="t", source="local", location="/t", digest="weights")
    session.add(twin)
    session.flush()

    job = retrained_models.find_retraining_job(
        session, owner.tenant_id, model=twin, train_sha256="rows", spec_sha256=SPEC, excluded_sha256s={}
    )

    assert job is not None


def test_a_deleted_output_is_reused_only_after_it_is_registered_again(
    session: Session, owner: Owner, retraining: Job, succeed: Callable[[], None]
) -> None:
    succeed()
    models.delete(session, retrained_models.ensure_output_model(session, retraining), owner.key_id)

    assert find_retraining(session, owner) is None
    retrained_models.ensure_output_model(session, retraining)
    assert find_retraining(session, owner) is not None


def test_a_model_whose_files_changed_is_another_model(session: Session, owner: Owner, retraining: Job) -> None:
    changed = Model(id="mdl_2", tenant_id=owner.tenant_id, name="t", source="local", location="/m", digest="others")
    session.add(changed)
    session.flush()

    assert (
        retrained_models.find_retraining_job(
            session, owner.tenant_id, model=changed, train_sha256="rows", spec_sha256=SPEC, excluded_sha256s={}
        )
        is None
    )


def test_an_output_is_registered_once(session: Session, retraining: Job, succeed: Callable[[], None]) -> None:
    succeed()

    assert (
        retrained_models.ensure_output_model(session, retraining).id
        == retrained_models.ensure_output_model(session, retraining).id
    )
    assert len(session.scalars(select(Model).where(Model.parent_job_id == retraining.id)).all()) == 1


def test_a_list_is_filtered_by_kind(session: Session, owner: Owner, retraining: Job, waiting: Job) -> None:
    page = job_queries.list_page(session, owner.tenant_id, limit=10, kind=JobKind.FINETUNE)

    assert [job.id for job in page] == [retraining.id]
