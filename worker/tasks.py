"""The task of a worker, on one page: claim the next job, fetch its inputs, run the engine, publish its outputs."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from soul_core import tracing
from soul_core.log_records import describe_exception
from soul_core.outputs.layout import REPORT
from soul_store import job_leases, job_logs, job_queue, metrics
from soul_store.blobs import BlobStoreUnavailable, get_blob_store
from soul_store.database import transaction
from soul_store.job_costs import NewJobCost
from soul_store.job_leases import JobLease, LeaseLostError
from soul_store.job_state_machine import RUN_JOB_TASK
from soul_store.job_status import JobStatus
from soul_store.settings import get_settings
from soul_store.tables import Artifact, Dataset, Job, Model, Tenant
from worker.attempt_log import AttemptLog, LogLimits
from worker.celery_app import app
from worker.cleanup import remove_leftovers
from worker.db_retry import run_when_database_available
from worker.device import get_device, get_worker_name
from worker.drain import is_draining
from worker.endings import AttemptEnd, Outputs, conclude_exit, conclude_worker_error, count_end
from worker.heartbeat import Heartbeat
from worker.learning import list_earlier_phases, make_job_cost
from worker.run_checkpoints import RunCheckpoints
from worker.supervisor import run_engine
from worker.workspace import JobInputs, Workspace

log = structlog.stdlib.get_logger(__name__)


@app.task(name=RUN_JOB_TASK)
def run_job(job_id: str) -> None:
    """Run one attempt of the next job that fits on this worker. A message wakes the worker; the queue has the order.

    Args:
        job_id: The job whose message this is. Another one may be next; with none, the message has no effect.
    """
    settings, worker = get_settings(), get_worker_name(os.getppid())
    with transaction() as session:
        job = job_queue.claim_next(session, worker=worker, device=get_device(), lease_seconds=settings.lease_seconds)
        last_seq = job_logs.get_last_seq(session, job.id) if job is not None else 0
    if job is None:
        log.info("no job claimed: none that fits on this worker is due", job_id=job_id)
        return
    lease = JobLease(job.id, job.epoch)
    workspace = Workspace(settings.scratch_dir, job.id, model_cache_bytes=settings.model_cache_bytes)
    limits = LogLimits(settings.job_log_max_lines, settings.job_log_max_bytes)
    with (
        bound_contextvars(**_get_ids(job)),
        _observed(job),
        Heartbeat(lease, lease_seconds=settings.lease_seconds) as heartbeat,
    ):
        attempt_log = AttemptLog(lease, limits, last_seq=last_seq)
        attempt_log.info("job claimed", worker=worker, **_get_ids(job))
        try:
            end = _run_attempt(job, workspace, heartbeat, attempt_log)
            attempt_log.info("attempt ended", next_status=end.ending.status, reason=end.reason.get("code"))
            status = run_when_database_available(partial(_write_end, lease, end, attempt_log))
            count_end(status, end)
            if status.is_terminal:
                workspace.wipe()
                _discard_checkpoints(job, workspace)
        except LeaseLostError:
            log.warning("the lease is lost: this attempt writes nothing more")
            metrics.LEASES_LOST.inc()
            workspace.withdraw(get_blob_store(), job)
            remove_leftovers(settings.scratch_dir)  # the job may have finished elsewhere


@contextmanager
def _observed(job: Job) -> Iterator[None]:
    """Count the attempt as running, and record it as a span of its request's trace."""
    attributes = {"soul.job_id": job.id, "soul.attempt": job.epoch, "soul.job_kind": job.kind}
    try:
        with (
            metrics.count_attempt(),
            tracing.span("run job", parent=tracing.make_trace_parent(job.request_id), attributes=attributes),
        ):
            yield
    finally:
        tracing.flush_tracing()


def _run_attempt(job: Job, workspace: Workspace, heartbeat: Heartbeat, attempt_log: AttemptLog) -> AttemptEnd:
    """Fetch the inputs, run the engine and publish its outputs. Any error but a lost lease is an end, too."""
    settings, blobs = get_settings(), get_blob_store()
    try:
        with workspace.lock(timeout_seconds=settings.grace_seconds):
            job_inputs = run_when_database_available(partial(_load_inputs, job))
            arguments = workspace.fetch_inputs(blobs, job, job_inputs)
            attempt_log.set_text_files(workspace.list_text_files())
            with _stored_checkpoints(job, workspace) as checkpoints, tracing.span("run engine"):
                engine_exit = run_engine(
                    arguments, heartbeat, attempt_log, is_draining=is_draining, grace_seconds=settings.grace_seconds
                )
            end = conclude_exit(engine_exit, heartbeat.stop_cause, uses_gpu=_uses_gpu(job))
            if checkpoints is not None and end.ending.status in {JobStatus.QUEUED, JobStatus.PAUSED}:
                checkpoints.try_upload()  # the engine's last checkpoint, which another machine may need
            return _publish(job, job_inputs, workspace, end) if end.ending.status == JobStatus.SUCCEEDED else end
    except LeaseLostError:
        raise
    except Exception as error:
        log.exception("the worker failed")
        attempt_log.error("the worker failed", exceptions=describe_exception(error))
        return conclude_worker_error(error)


@contextmanager
def _stored_checkpoints(job: Job, workspace: Workspace) -> Iterator[RunCheckpoints | None]:
    """Restore the job's state from the store and keep the copy current, if the settings ask for it."""
    if get_settings().checkpoints == "scratch":
        yield None
        return
    checkpoints = RunCheckpoints(get_blob_store(), workspace.state, job.id, job.epoch)
    checkpoints.restore()
    with checkpoints.uploading():
        yield checkpoints


def _discard_checkpoints(job: Job, workspace: Workspace) -> None:
    """Remove the stored state of a job that has ended; `remove_leftovers` repeats it if the store does not answer."""
    if get_settings().checkpoints == "store":
        try:
            RunCheckpoints(get_blob_store(), workspace.state, job.id, job.epoch).discard()
        except BlobStoreUnavailable as error:
            log.warning("the stored checkpoint is removed later", error=str(error))


def _get_ids(job: Job) -> dict[str, Any]:
    """Return what connects the log records of an attempt with each other and with the API's."""
    ids = {"job_id": job.id, "attempt": job.epoch}
    return ids if job.request_id is None else {**ids, "request_id": job.request_id}


def _uses_gpu(job: Job) -> bool:
    return get_device().accelerator == "cuda" and job.accelerator != "cpu"


def _load_inputs(job: Job, session: Session) -> JobInputs:
    datasets = session.scalars(select(Dataset).where(Dataset.id.in_(job.datasets.values())))
    by_id = {dataset.id: dataset for dataset in datasets}
    return JobInputs(
        model=session.get_one(Model, job.model_id),
        models={name: session.get_one(Model, model_id) for name, model_id in job.models.items()},
        datasets={name: by_id[dataset_id] for name, dataset_id in job.datasets.items()},
        retrained_log=session.get_one(Artifact, job.retrained_log_id) if job.retrained_log_id else None,
        row_key=session.get_one(Tenant, job.tenant_id).row_key,
    )


def _publish(job: Job, job_inputs: JobInputs, workspace: Workspace, end: AttemptEnd) -> AttemptEnd:
    """Store the outputs and return the end with them, and with the cost that the report states."""
    report = json.loads((workspace.out / REPORT).read_text())
    try:
        with tracing.span("publish outputs"):
            artifacts = workspace.publish(get_blob_store(), job)
    except Exception:
        workspace.withdraw(get_blob_store(), job)
        raise
    usage = {**end.usage, "flops": report["run"]["flops"]}
    report_blob = next(artifact.blob for artifact in artifacts if artifact.path == REPORT)
    cost = _learn(job, job_inputs, report, engine_seconds=usage["engine_seconds"])
    return AttemptEnd(end.ending, usage=usage, outputs=Outputs(report["verdict"], report_blob, artifacts, cost))


def _learn(job: Job, job_inputs: JobInputs, report: dict[str, Any], *, engine_seconds: float) -> NewJobCost | None:
    """Return what the job cost. A job whose cost cannot be computed still succeeds: estimates do not learn from it."""
    try:
        earlier = run_when_database_available(partial(list_earlier_phases, job))
        blobs = get_blob_store()
        return make_job_cost(job, job_inputs, report, engine_seconds=engine_seconds, earlier=earlier, blobs=blobs)
    except LeaseLostError:
        raise
    except Exception as error:
        log.warning("estimates do not learn from this job", exceptions=describe_exception(error))
        return None


def _write_end(lease: JobLease, end: AttemptEnd, attempt_log: AttemptLog, session: Session) -> JobStatus:
    """Write how the attempt ended, and the rest of its log. Return the job's status."""
    if end.outputs is not None:
        job_leases.succeed(session, lease, **vars(end.outputs), usage=end.usage)
    elif end.ending.status == JobStatus.FAILED:
        job_leases.fail(session, lease, reason=end.reason, usage=end.usage)
    elif end.ending.status == JobStatus.CANCELLED:
        job_leases.cancel(session, lease, usage=end.usage)
    elif end.ending.counts_as_attempt:
        max_attempts = get_settings().max_attempts
        job_leases.retry_or_fail(session, lease, reason=end.reason, max_attempts=max_attempts, usage=end.usage)
    else:
        job_leases.release(session, lease, usage=end.usage)
    attempt_log.write(session)
    return session.scalars(select(Job.status).where(Job.id == lease.job_id)).one()
