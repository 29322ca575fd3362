"""run_job: claim -> fetch -> engine child -> publish -> finish, on one page."""

import errno
import json
import logging
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from soul_store import job_leases, job_state_machine
from soul_store.blobs import StorageFull, get_blob_store
from soul_store.database import transaction
from soul_store.job_status import TERMINAL_STATUSES
from soul_store.outbox import get_celery_app, get_worker_name
from soul_store.settings import get_settings
from soul_store.tables import Artifact, Dataset, Job, Model, Tenant
from worker.cleanup import remove_leftovers
from worker.db_retry import run_when_database_available
from worker.drain import is_draining
from worker.heartbeat import Heartbeat
from worker.supervisor import EngineExit, run_engine
from worker.workspace import REPORT, JobInputs, Workspace, WorkspaceBusy

log = logging.getLogger(__name__)

_USER_FAULT, _FAILED, _INTERRUPTED, _CANCELLED = 2, 3, 4, 5
#: Engine failures that another attempt may survive.
_INFRASTRUCTURE = frozenset({"disk_full"})


@get_celery_app().task(name=job_state_machine.RUN_JOB_TASK)
def run_job(job_id: str) -> None:
    """Run one queued job to whatever end it has. A message for a job that is not to be had is dropped."""
    with transaction() as session:
        job = job_leases.claim(session, job_id, worker=get_worker_name(), lease_seconds=get_settings().lease_seconds)
    if job is None:
        log.info("%s: not to be had", job_id)
        return
    log.info("%s: claimed, epoch %s", job.id, job.epoch)
    workspace = Workspace(get_settings().scratch_dir, job.id)
    with Heartbeat(job.id, job.epoch, lease_seconds=get_settings().lease_seconds) as heart:
        try:
            with workspace.lock(timeout_seconds=get_settings().grace_seconds):
                outcome = _run_engine(job, workspace, heart)
                _settle(job, workspace, heart, outcome)
                if _is_over(job):
                    workspace.wipe()
        except WorkspaceBusy:
            _lose(job, "worker_busy", "an earlier attempt still held the job's folder")
        except Exception as error:
            if _is_full_disk(error):
                _lose(job, "disk_full", "the worker's disk is full; free some space and submit the job again")
            else:  # whatever it is, the row says so: a silent end would only be tried again
                log.exception("%s: the worker could not go on", job.id)
                _lose(job, "worker_error", f"{type(error).__name__} in the worker; its log says more")
    if heart.is_lease_lost:
        remove_leftovers(get_settings().scratch_dir)  # it may have ended elsewhere meanwhile


def _run_engine(job: Job, workspace: Workspace, heart: Heartbeat) -> EngineExit:
    arguments = workspace.fetch_inputs(
        get_blob_store(), job, run_when_database_available(lambda session: _needs(session, job))
    )
    return run_engine(
        arguments,
        heart,
        log_folder=workspace.folder,
        is_draining=is_draining,
        grace_seconds=get_settings().grace_seconds,
    )


def _needs(session: Session, job: Job) -> JobInputs:
    rows = session.scalars(select(Dataset).where(Dataset.id.in_(job.datasets.values())))
    sets = {row.id: row for row in rows}
    return JobInputs(
        model=session.get_one(Model, job.model_id),
        models={name: session.get_one(Model, model_id) for name, model_id in job.models.items()},
        datasets={name: sets[dataset_id] for name, dataset_id in job.datasets.items()},
        retrained_log=session.get_one(Artifact, job.retrained_log_id) if job.retrained_log_id else None,
        row_key=session.get_one(Tenant, job.tenant_id).row_key,
    )


def _settle(job: Job, workspace: Workspace, heart: Heartbeat, outcome: EngineExit) -> None:
    """Write how the run ended."""
    usage: dict[str, Any] = {"engine_seconds": round(outcome.seconds, 3), "gpu_seconds": 0.0, "flops": 0.0}
    failure = outcome.failed_event.data if outcome.failed_event is not None else None
    if heart.is_lease_lost:
        log.warning("%s: epoch %s is no longer ours; leaving without a word", job.id, job.epoch)
    elif outcome.returncode == 0:
        _succeed(job, workspace, usage)
    elif outcome.returncode == _INTERRUPTED or (outcome.drain_requested and outcome.returncode < 0):
        # killed because its checkpoint took longer than we may: an older one is there, and it was not the job's fault
        run_when_database_available(lambda session: job_leases.release(session, job.id, job.epoch, usage=usage))
    elif outcome.returncode == _CANCELLED or (heart.requested_action == "cancel" and outcome.returncode < 0):
        run_when_database_available(lambda session: job_leases.cancel(session, job.id, job.epoch, usage=usage))
    elif failure is None or outcome.returncode not in {_USER_FAULT, _FAILED} or failure["code"] in _INFRASTRUCTURE:
        _lose_engine(job, outcome, failure, usage)
    else:
        reason = {
            "code": failure["code"],
            "message": failure["message"],
            "retryable": outcome.returncode != _USER_FAULT,
            "details": failure.get("details", []),
        }
        run_when_database_available(
            lambda session: job_leases.fail(session, job.id, job.epoch, reason=reason, usage=usage)
        )


def _succeed(job: Job, workspace: Workspace, usage: dict[str, Any]) -> None:
    report = json.loads((workspace.out / REPORT).read_text())
    usage["flops"] = report["run"]["flops"]
    if report["run"]["device"] != "cpu":
        usage["gpu_seconds"] = usage["engine_seconds"]
    try:
        artifacts = workspace.publish(get_blob_store(), job)
    except Exception:
        workspace.withdraw(get_blob_store(), job)
        raise
    report_blob = next(made.blob for made in artifacts if made.path == REPORT)

    def write(session: Session) -> bool:
        ours = job_leases.succeed(
            session,
            job.id,
            job.epoch,
            verdict=report["verdict"],
            report_blob=report_blob,
            artifacts=artifacts,
            usage=usage,
        )
        # already written by an earlier try, whose answer was lost
        return ours or session.scalar(select(Job.report_blob).where(Job.id == job.id)) == report_blob

    if not run_when_database_available(write):
        workspace.withdraw(get_blob_store(), job)


def _lose_engine(job: Job, outcome: EngineExit, failure: dict[str, Any] | None, usage: dict[str, Any]) -> None:
    if failure is not None:
        _lose(job, failure["code"], failure["message"], usage)
        return
    how = f"signal {-outcome.returncode}" if outcome.returncode < 0 else f"exit code {outcome.returncode}"
    log.error("%s: the engine died of %s; its last words:\n%s", job.id, how, "\n".join(outcome.stderr_tail))
    _lose(job, "engine_died", f"the engine process died ({how})", usage)


def _lose(job: Job, code: str, message: str, usage: dict[str, Any] | None = None) -> None:
    """Spend an attempt."""
    reason = job_state_machine.make_status_reason(code, message, retryable=True)
    log.warning("%s: %s", job.id, message)
    most = get_settings().max_attempts
    run_when_database_available(
        lambda session: job_leases.retry_or_fail(
            session, job.id, job.epoch, reason=reason, max_attempts=most, usage=usage or {}
        )
    )


def _is_over(job: Job) -> bool:
    status = run_when_database_available(lambda session: session.scalar(select(Job.status).where(Job.id == job.id)))
    return status in TERMINAL_STATUSES


def _is_full_disk(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return full or isinstance(error, StorageFull)
