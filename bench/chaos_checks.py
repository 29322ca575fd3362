"""What must hold after the faults of `bench.chaos`: nothing lost, doubled or different, and nothing left over."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import Connection, create_engine, text

from bench.chaos_service import ServiceUnderTest

WEIGHTS = "checkpoint/model.safetensors"
#: What a service keeps in its folders between jobs.
_KEPT_NAMES = re.compile(r"models/.*|\.alive-[^/]*")
#: Keys of Celery's broker that hold no message.
_KEPT_KEYS = re.compile(r"_kombu\.binding.*|unacked_mutex")


def check_jobs(database_url: str, expected: dict[str, str], undisturbed: dict[str, str]) -> dict[str, Any]:
    """Compare the jobs with those that were submitted.

    Args:
        database_url: The service's database.
        expected: Name of each submitted job -> the kind of its spec.
        undisturbed: Kind of spec -> digest of the weights of a run that nothing disturbed.
    """
    with _connect(database_url) as connection:
        jobs = connection.execute(text("SELECT id, name, status, epoch, status_reason FROM jobs")).all()
        weights = connection.execute(text("SELECT job_id, sha256 FROM artifacts WHERE path = :path"), {"path": WEIGHTS})
        digests = {row.job_id: row.sha256 for row in weights}
        gaps = connection.scalars(
            text("SELECT job_id FROM job_events GROUP BY job_id HAVING max(seq) <> count(*) OR min(seq) <> 1")
        ).all()
        ends = connection.scalars(
            text(
                "SELECT j.id FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id AND e.kind = 'status' "
                "AND e.data->>'status' IN ('succeeded', 'failed', 'cancelled') GROUP BY j.id HAVING count(e.seq) <> 1"
            )
        ).all()
    counts = Counter(job.name for job in jobs if job.name in expected)
    mine = [job for job in jobs if job.name in expected]
    return {
        "submitted": len(expected),
        "attempts": sum(job.epoch for job in mine),
        "lost": sorted(set(expected) - set(counts)),
        "doubled": sorted(name for name, count in counts.items() if count > 1),
        "not_succeeded": {job.name: [job.status, job.status_reason] for job in mine if job.status != "succeeded"},
        "different": sorted(
            job.name
            for job in mine
            if job.status == "succeeded" and digests.get(job.id) != undisturbed[expected[job.name]]
        ),
        "events_with_gaps": sorted(gaps),
        "without_exactly_one_end": sorted(ends),
    }


def check_uploads(database_url: str, acknowledged: dict[str, str]) -> dict[str, Any]:
    """Compare the data sets with the acknowledged uploads, name -> sha256 of the file."""
    query = text("SELECT name, sha256, status FROM datasets WHERE deleted_at IS NULL")
    with _connect(database_url) as connection:
        rows = [row for row in connection.execute(query) if row.name.startswith("chaos upload")]
    ready = Counter((row.name, row.sha256) for row in rows if row.status == "ready")
    return {
        "acknowledged": len(acknowledged),
        "lost": sorted(name for name, sha256 in acknowledged.items() if ready[name, sha256] == 0),
        "unacknowledged": sum(1 for row in rows if row.name not in acknowledged),
    }


def check_leftovers(service: ServiceUnderTest) -> dict[str, Any]:
    """Return what is left that belongs to nothing, after the cleanup that every worker runs periodically."""
    settings = {
        "SOUL_DATABASE_URL": service.database_url,
        "SOUL_REDIS_URL": "redis://unused",
        "SOUL_BLOBS_URL": (service.data / "blobs").as_uri(),
        "SOUL_SCRATCH_DIR": str(service.data / "scratch"),
    }
    subprocess.run([sys.executable, "-m", "worker.cleanup"], check=True, env={**os.environ, **settings})
    with _connect(service.database_url) as connection:
        known = set(
            connection.scalars(
                text(
                    "SELECT blob FROM artifacts UNION SELECT blob FROM datasets WHERE blob IS NOT NULL "
                    "UNION SELECT report_blob FROM jobs WHERE report_blob IS NOT NULL"
                )
            )
        )
        rows = {
            "outbox": connection.scalar(text("SELECT count(*) FROM outbox")),
            "running jobs": connection.scalar(text("SELECT count(*) FROM jobs WHERE status = 'running'")),
            "open answers": connection.scalar(text("SELECT count(*) FROM idempotency_keys WHERE status_code IS NULL")),
        }
    blobs, scratch = service.data / "blobs", service.data / "scratch"
    with Redis(unix_socket_path=str(service.data / "run" / "valkey.sock")) as broker:
        keys = [key.decode() for key in broker.scan_iter()]
    return {
        "files": sorted(set(_list_names(blobs)) - known),
        "missing_files": sorted(known - set(_list_names(blobs))),
        "scratch": [name for name in _list_names(scratch) if not _KEPT_NAMES.fullmatch(name)],
        "rows": {name: count for name, count in rows.items() if count},
        "keys": sorted(key for key in keys if not _KEPT_KEYS.fullmatch(key)),
    }


def list_temporary_files(service: ServiceUnderTest) -> list[str]:
    """Return what is left in the folders for temporary files after the service has stopped."""
    folders = (service.folder / "tmp", service.data / "tmp")
    return sorted(str(path) for folder in folders if folder.exists() for path in folder.rglob("*"))


def _list_names(folder: Path) -> list[str]:
    """Return the files below a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _connect(database_url: str) -> Connection:
    return create_engine(database_url).connect()
