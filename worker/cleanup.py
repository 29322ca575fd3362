"""`python -m worker.cleanup`: removes what finished jobs left on this machine.

A worker removes the folder of a job that it finished. This covers the jobs it was killed over, requeued or lost, which
finished elsewhere.
"""

import fcntl
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import select

from soul_core.log_config import configure_logging
from soul_store.blobs import BlobStore, get_blob_store
from soul_store.database import transaction
from soul_store.job_status import TERMINAL_STATUSES, JobStatus
from soul_store.settings import get_settings
from soul_store.tables import Job
from worker.run_checkpoints import RUNS

log = structlog.stdlib.get_logger(__name__)

_JOB_FILE = re.compile(r"(job_[0-9a-z]+)(\.lock)?")


def remove_leftovers(scratch: Path) -> None:
    """Remove folders and unpublished outputs of finished jobs.

    A folder that an attempt still locks stays, and so do folders of jobs that are not in this database.
    """
    job_ids = {match[1] for path in scratch.glob("job_*") if (match := _JOB_FILE.fullmatch(path.name))}
    stored_runs = _list_stored_runs(get_blob_store())
    with transaction() as session:
        query = select(Job.id, Job.status, Job.epoch)
        named = Job.id.in_(job_ids | stored_runs)
        finished = list(session.execute(query.where(named, Job.status.in_(TERMINAL_STATUSES))))
    for job_id in stored_runs & {job_id for job_id, _, _ in finished}:
        get_blob_store().delete_prefix(f"{RUNS}/{job_id}")
        log.info("removed the stored checkpoint of a finished job", job_id=job_id)
    for job_id, status, epoch in finished:
        if job_id not in job_ids:
            continue
        with _try_lock(scratch / f"{job_id}.lock") as is_locked:
            if is_locked:
                _remove_outputs(get_blob_store(), job_id, kept_epoch=epoch if status == JobStatus.SUCCEEDED else None)
                shutil.rmtree(scratch / job_id, ignore_errors=True)
                (scratch / f"{job_id}.lock").unlink(missing_ok=True)
                log.info("removed what a finished job left", job_id=job_id)


def _list_stored_runs(store: BlobStore) -> set[str]:
    """Return the jobs whose checkpoints are in the store, of any worker."""
    if get_settings().checkpoints == "scratch":
        return set()
    return {key.split("/")[1] for key in store.list_keys(RUNS)}


def _remove_outputs(store: BlobStore, job_id: str, *, kept_epoch: int | None) -> None:
    """Remove the outputs of attempts that did not succeed: they are not artifacts of the job."""
    epochs = {key.split("/")[2] for key in store.list_keys(f"jobs/{job_id}")}
    for epoch in epochs - {str(kept_epoch)}:
        store.delete_prefix(f"jobs/{job_id}/{epoch}")


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Lock the job's folder unless an attempt holds the lock; yield whether it is locked now."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def main() -> int:
    """Clean this machine's scratch folder once."""
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)
    remove_leftovers(get_settings().scratch_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
