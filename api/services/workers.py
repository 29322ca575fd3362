"""Rules of the registry of workers: what a project sees of the fleet."""

from api.auth import Caller
from api.schemas.workers import WorkerOut, WorkersOut
from soul_store import workers
from soul_store.database import Session
from soul_store.workers import RegisteredWorker


def list_workers(session: Session, caller: Caller) -> WorkersOut:
    """Return the workers of the fleet. The jobs of other projects are not named."""
    return WorkersOut(data=[_make_out(worker, caller) for worker in workers.list_registered(session)])


def _make_out(worker: RegisteredWorker, caller: Caller) -> WorkerOut:
    row = worker.row
    return WorkerOut(
        name=row.name,
        state=worker.state,
        accelerator="cuda" if row.accelerator == "cuda" else "cpu",
        device=row.machine,
        memory_bytes=row.memory_bytes,
        ram_bytes=row.ram_bytes,
        load=row.load,
        job_id=worker.job_id if worker.job_tenant_id == caller.tenant_id else None,
        busy_since=worker.job_since,
        started_at=row.started_at,
        last_seen_at=row.seen_at,
        versions=row.versions,
    )
