"""`python -m bench.queue`: what a claim and a page of positions cost with many queued jobs, on a real PostgreSQL.

Also how the claims are shared among projects, of which the first has submitted half of the jobs before all others.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections import Counter
from typing import Any

from sqlalchemy import Engine, insert, text
from sqlalchemy.orm import Session

from migrations.run import upgrade
from soul_store import job_leases, job_queue, keys, models
from soul_store.database import make_engine
from soul_store.ids import new_id
from soul_store.job_leases import JobLease
from soul_store.job_priority import JobPriority
from soul_store.placement import WorkerDevice
from soul_store.settings import get_settings
from soul_store.tables import Job
from tests.servers import running_servers

DEVICE = WorkerDevice("cpu")
REASON = {"code": "bench", "message": "ended by the benchmark", "retryable": False, "details": []}


def main() -> int:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="queued jobs")
    parser.add_argument("--projects", type=int, default=20)
    parser.add_argument("--claims", type=int, default=50, help="claims to time, and to count by project")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    options = parser.parse_args()
    with running_servers() as servers:
        os.environ["SOUL_DATABASE_URL"] = servers.postgres.make_url()
        os.environ["SOUL_REDIS_URL"] = servers.valkey.url
        os.environ.setdefault("SOUL_BLOBS_URL", "file:///nowhere")
        get_settings.cache_clear()
        upgrade(servers.postgres.make_url())
        database = make_engine(servers.postgres.make_url())
        figures = measure(database, options.jobs, options.projects, options.claims, random.Random(options.seed))
        database.dispose()
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    if options.json:
        print(json.dumps({"seed": options.seed, **figures}))
    return 0


def measure(
    database: Engine, num_jobs: int, num_projects: int, num_claims: int, generator: random.Random
) -> dict[str, Any]:
    """Return milliseconds of a position, a page and a claim, and the least and most claims of a project."""
    fill(database, num_jobs, num_projects, generator)
    with Session(database) as session:
        positions_ms = [time_ms(lambda: job_queue.list_positions(session)) for _ in range(10)]
    claim_ms: list[float] = []
    claimed: Counter[str] = Counter()
    for _ in range(num_claims):
        with Session(database) as session:
            started = time.perf_counter()
            job = job_queue.claim_next(session, worker="w", device=DEVICE, lease_seconds=600)
            session.commit()
            claim_ms.append((time.perf_counter() - started) * 1000)
            assert job is not None
            claimed[job.tenant_id] += 1
            usage = {"engine_seconds": 60.0}
            job_leases.fail(session, JobLease(job.id, job.epoch), reason=REASON, usage=usage)
            session.commit()
    return {
        "queued_jobs": num_jobs,
        "projects": num_projects,
        "all_positions_ms": round(statistics.median(positions_ms), 2),
        "claim_median_ms": round(statistics.median(claim_ms), 2),
        "claim_max_ms": round(max(claim_ms), 2),
        "claims": num_claims,
        "projects_served": len(claimed),
        "fewest_claims": min(claimed.values()),
        "most_claims": max(claimed.values()),
    }


def fill(database: Engine, num_jobs: int, num_projects: int, generator: random.Random) -> None:
    """Queue jobs of the same priority; the first project submits half of them, before all others."""
    with Session(database) as session, session.begin():
        owners = []
        for number in range(num_projects):
            tenant = keys.get_or_insert_tenant(session, f"p{number}")
            key = keys.insert(
                session,
                tenant_id=tenant.id,
                name="k",
                prefix=f"bench{number:03}",
                secret_sha256="0" * 64,
                scopes=["*"],
                expires_at=None,
                actor="system",
            )
            model = models.insert(session, tenant_id=tenant.id, actor=key.id, name="m", source="local", location="/m")
            owners.append({"tenant_id": tenant.id, "created_by": key.id, "model_id": model.id})
        rows = []
        for number in range(num_jobs):
            owner = owners[0] if number < num_jobs // 2 else generator.choice(owners[1:])
            values = {"name": "j", "datasets": {}, "spec": {}, "spec_sha256": "0", "status": "queued"}
            rows.append({"id": new_id("job"), "priority": JobPriority.NORMAL, **owner, **values})
        session.execute(insert(Job), rows)
    with database.connect() as connection:
        connection.execute(text("ANALYZE jobs"))
        connection.commit()


def time_ms(run: Any) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    raise SystemExit(main())
