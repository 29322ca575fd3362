"""`python -m worker.cleanup`: removes what jobs that are over left on this machine, wherever their end was decided.

A worker wipes the folder of a job it ended itself; here are those it was killed over, gave back, or lost.
"""

import fcntl
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from soul_store.blobs import BlobStore, get_blob_store
from soul_store.database import transaction
from soul_store.job_status import TERMINAL_STATUSES
from soul_store.settings import get_settings
from soul_store.tables import Job

log = logging.getLogger(__name__)

_LEFT = re.compile(r"(job_[0-9a-z]+)(\.lock)?")


def remove_leftovers(scratch: Path) -> list[str]:
    """Remove folders and unpublished outputs of jobs that are over. Returns their ids.

    Left alone: a folder an attempt still holds, and folders of jobs this database does not know.
    """
    names = {found[1] for path in scratch.glob("job_*") if (found := _LEFT.fullmatch(path.name))}
    with transaction() as session:
        over = session.execute(
            select(Job.id, Job.status, Job.epoch).where(Job.id.in_(names), Job.status.in_(TERMINAL_STATUSES))
        )
        rows = list(over)
    swept = []
    for job_id, status, epoch in rows:
        with _held(scratch / f"{job_id}.lock") as ours:
            if ours:
                _remove_outputs(get_blob_store(), job_id, kept_epoch=epoch if status == "succeeded" else None)
                shutil.rmtree(scratch / job_id, ignore_errors=True)
                (scratch / f"{job_id}.lock").unlink(missing_ok=True)
                swept.append(job_id)
    if swept:
        log.info("removed what was left of jobs that are over: %s", ", ".join(swept))
    return swept


def _remove_outputs(store: BlobStore, job_id: str, *, kept_epoch: int | None) -> None:
    """Remove what attempts stored that nobody will ever see: only the one that succeeded has artifacts."""
    epochs = {key.split("/")[2] for key in store.list_keys(f"jobs/{job_id}")}
    for epoch in epochs - {str(kept_epoch)}:
        store.delete_prefix(f"jobs/{job_id}/{epoch}")


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold the job's folder if no attempt does; yield whether we do."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def main() -> int:
    """Sweep this machine's scratch folder once."""
    logging.basicConfig(
        level=get_settings().log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    remove_leftovers(get_settings().scratch_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
