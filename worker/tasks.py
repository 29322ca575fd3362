"""run_job: claim -> fetch -> engine child -> publish -> finish, on one page."""

import errno
import json
import logging
from typing import Any

from sqlalchemy import select

from api.store import jobs
from api.store.blobs import StorageFull, blobs
from api.store.database import transaction
from api.store.queue import celery_app, worker_name
from api.store.settings import settings
from api.store.tables import Dataset, Job, Model
from worker.drain import draining
from worker.heartbeat import Heartbeat
from worker.supervisor import Outcome, run_engine
from worker.workspace import REPORT, Busy, Workspace

log = logging.getLogger(__name__)

_USER_FAULT, _FAILED, _INTERRUPTED, _CANCELLED = 2, 3, 4, 5
#: Engine failures that another attempt may survive.
_INFRASTRUCTURE = frozenset({"disk_full"})


@celery_app().task(name=jobs.RUN_JOB)
def run_job(job_id: str) -> None:
    """Run one queued job to whatever end it has. A message for a job that is not to be had is dropped."""
    with transaction() as session:
        job = jobs.claim(session, job_id, worker=worker_name(), lease_seconds=settings().lease_seconds)
    if job is None:
        log.info("%s: not to be had", job_id)
        return
    log.info("%s: claimed, epoch %s", job.id, job.epoch)
    workspace = Workspace(settings().scratch_dir, job.id)
    with Heartbeat(job.id, job.epoch, lease_seconds=settings().lease_seconds) as heart:
        try:
            with workspace.held(patience_seconds=settings().grace_seconds):
                outcome = _run_engine(job, workspace, heart)
                ended = _settle(job, workspace, heart, outcome)
                if ended:
                    workspace.wipe()
        except Busy:
            _lose(job, "worker_busy", "an earlier attempt still held the job's folder")
        except (StorageFull, OSError) as error:
            if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            workspace.withdraw(blobs(), job)
            _lose(job, "disk_full", "the worker's disk is full; free some space and submit the job again")


def _run_engine(job: Job, workspace: Workspace, heart: Heartbeat) -> Outcome:
    with transaction() as session:
        model = session.get_one(Model, job.model_id)
        rows = session.scalars(select(Dataset).where(Dataset.id.in_(job.datasets.values())))
        by_id = {row.id: row for row in rows}
    named = {name: by_id[dataset_id] for name, dataset_id in job.datasets.items()}
    arguments = workspace.fetch(blobs(), job, model, named)
    return run_engine(
        arguments, heart, log_folder=workspace.folder, draining=draining, grace_seconds=settings().grace_seconds
    )


def _settle(job: Job, workspace: Workspace, heart: Heartbeat, outcome: Outcome) -> bool:
    """Write how the run ended. True when the job is over and its folder can go."""
    usage: dict[str, Any] = {"engine_seconds": round(outcome.seconds, 3), "gpu_seconds": 0.0, "flops": 0.0}
    if heart.lost:
        log.warning("%s: epoch %s is no longer ours; leaving without a word", job.id, job.epoch)
        return False
    if outcome.returncode == 0:
        return _succeed(job, workspace, usage)
    if outcome.returncode == _INTERRUPTED or (outcome.asked_to_leave and outcome.returncode < 0):
        # killed because its checkpoint took longer than we may: an older one is there, and it was not the job's fault
        with transaction() as session:
            jobs.hand_back(session, job.id, job.epoch, usage=usage)
        return False
    if outcome.returncode == _CANCELLED or (heart.wish == "cancel" and outcome.returncode < 0):
        with transaction() as session:
            jobs.cancelled(session, job.id, job.epoch, usage=usage)
        return True
    failure = outcome.failure.data if outcome.failure is not None else None
    if failure is None or outcome.returncode not in {_USER_FAULT, _FAILED} or failure["code"] in _INFRASTRUCTURE:
        return _lose_engine(job, outcome, failure, usage)
    reason = {
        "code": failure["code"],
        "message": failure["message"],
        "retryable": outcome.returncode != _USER_FAULT,
        "details": failure.get("details", []),
    }
    with transaction() as session:
        jobs.fail(session, job.id, job.epoch, reason=reason, usage=usage)
    return True


def _succeed(job: Job, workspace: Workspace, usage: dict[str, Any]) -> bool:
    report = json.loads((workspace.out / REPORT).read_text())
    usage["flops"] = report["run"]["flops"]
    if report["run"]["device"] != "cpu":
        usage["gpu_seconds"] = usage["engine_seconds"]
    artifacts = workspace.publish(blobs(), job)
    report_blob = next(made.blob for made in artifacts if made.path == REPORT)
    with transaction() as session:
        ours = jobs.succeed(
            session,
            job.id,
            job.epoch,
            verdict=report["verdict"],
            report_blob=report_blob,
            artifacts=artifacts,
            usage=usage,
        )
    if not ours:
        workspace.withdraw(blobs(), job)
    return ours


def _lose_engine(job: Job, outcome: Outcome, failure: dict[str, Any] | None, usage: dict[str, Any]) -> bool:
    if failure is not None:
        return _lose(job, failure["code"], failure["message"], usage)
    how = f"signal {-outcome.returncode}" if outcome.returncode < 0 else f"exit code {outcome.returncode}"
    log.error("%s: the engine died of %s; its last words:\n%s", job.id, how, "\n".join(outcome.stderr_tail))
    return _lose(job, "engine_died", f"the engine process died ({how})", usage)


def _lose(job: Job, code: str, message: str, usage: dict[str, Any] | None = None) -> bool:
    """Spend an attempt. True when none is left and the job has failed."""
    reason = {"code": code, "message": message, "retryable": True, "details": []}
    log.warning("%s: %s", job.id, message)
    with transaction() as session:
        jobs.lose(session, job.id, job.epoch, reason=reason, max_attempts=settings().max_attempts, usage=usage or {})
        status = session.scalar(select(Job.status).where(Job.id == job.id))
    return status == "failed"
