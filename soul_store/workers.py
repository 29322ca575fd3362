"""The registry of workers: their devices, which decide who can hold a job and what an estimate assumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session

from soul_core.formatting import format_bytes
from soul_store.job_state_machine import make_interval
from soul_store.job_status import JobStatus
from soul_store.placement import Accelerator, JobNeeds, WorkerDevice, can_hold
from soul_store.settings import get_settings
from soul_store.tables import Job, Worker


class WorkerState(StrEnum):
    """What a worker does, as far as its reports and the jobs tell."""

    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True)
class RegisteredWorker:
    """A worker with its state and the job that it runs."""

    row: Worker
    state: WorkerState
    job_id: str | None
    job_tenant_id: str | None
    job_since: datetime | None


def record(
    session: Session,
    *,
    name: str,
    device: WorkerDevice,
    versions: Mapping[str, str] | None = None,
    load: float | None = None,
    is_draining: bool = False,
) -> None:
    """Record that a worker runs, and its device. It reports several times per lease period, also while idle."""
    values: dict[str, Any] = {**vars(device), "versions": dict(versions or {}), "load": load}
    values |= {"is_draining": is_draining, "seen_at": func.clock_timestamp()}
    upsert = insert(Worker).values(name=name, **values)
    session.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=values))


def remove(session: Session, name: str) -> None:
    """Remove a worker that ends in order."""
    session.execute(delete(Worker).where(Worker.name == name))


def remove_expired(session: Session) -> int:
    """Remove the workers that were lost long ago. Return their number."""
    return len(session.scalars(delete(Worker).where(~_is_registered()).returning(Worker.name)).all())


def list_registered(session: Session) -> list[RegisteredWorker]:
    """Return the workers by name, with the job that each runs."""
    is_lost = Worker.seen_at < func.clock_timestamp() - make_interval(get_settings().lease_seconds)
    runs = and_(Job.worker == Worker.name, Job.status == JobStatus.RUNNING)
    query = select(Worker, is_lost, Job.id, Job.tenant_id, Job.claimed_at).outerjoin(Job, runs)
    query = query.where(_is_registered()).order_by(Worker.name, Job.id).ext(distinct_on(Worker.name))
    rows = session.execute(query.execution_options(populate_existing=True))
    return [
        RegisteredWorker(row, _get_state(row, is_lost=lost, is_busy=job_id is not None), job_id, tenant_id, since)
        for row, lost, job_id, tenant_id, since in rows
    ]


def list_available(session: Session) -> list[WorkerDevice]:
    """Return the devices of the workers that claim jobs: neither lost nor draining."""
    is_alive = Worker.seen_at >= func.clock_timestamp() - make_interval(get_settings().lease_seconds)
    rows = session.scalars(select(Worker).where(is_alive, Worker.is_draining.is_(False)))
    return [
        WorkerDevice(
            accelerator="cuda" if row.accelerator == "cuda" else "cpu",
            machine=row.machine,
            device_id=row.device_id,
            memory_bytes=row.memory_bytes,
            ram_bytes=row.ram_bytes,
        )
        for row in rows
    ]


def find_waiting_reason(devices: Sequence[WorkerDevice], needs: JobNeeds) -> tuple[str, str] | None:
    """Return the code and the message of why no worker can hold a job; None if one of the devices can."""
    if not devices:
        return "no_worker", "no worker is running: the job waits until one starts"
    if any(can_hold(device, needs) for device in devices):
        return None
    if needs.accelerator == "cuda" and all(device.accelerator != "cuda" for device in devices):
        return "no_suitable_worker", "the job needs a GPU, and no running worker has one: it waits until one starts"
    needed, largest = format_bytes(needs.memory_bytes or 0), format_bytes(_find_largest(devices, needs))
    message = (
        f"the job needs about {needed} of memory, and the largest running worker has {largest}: "
        "it waits until a larger one starts"
    )
    return "no_suitable_worker", message


def get_best_accelerator(session: Session) -> Accelerator | None:
    """Return the fastest accelerator of the workers that run. None if no worker has reported."""
    accelerators = set(session.scalars(select(Worker.accelerator).where(_is_registered()).distinct()))
    if not accelerators:
        return None
    return "cuda" if "cuda" in accelerators else "cpu"


def get_common_machine(session: Session, accelerator: Accelerator) -> str | None:
    """Return the machine that most of the running workers with this accelerator have; of equals the first by name."""
    query = select(Worker.machine).where(
        _is_registered(), Worker.accelerator == accelerator, Worker.machine.is_not(None)
    )
    return session.scalar(query.group_by(Worker.machine).order_by(func.count().desc(), Worker.machine).limit(1))


def _get_state(row: Worker, *, is_lost: bool, is_busy: bool) -> WorkerState:
    if is_lost:
        return WorkerState.LOST
    if row.is_draining:
        return WorkerState.DRAINING
    return WorkerState.BUSY if is_busy else WorkerState.IDLE


def _is_registered() -> ColumnElement[bool]:
    """Return the condition for a worker that reported recently enough to be listed, lost or not."""
    cutoff = func.clock_timestamp() - make_interval(get_settings().worker_expiry_seconds)
    is_recent: ColumnElement[bool] = Worker.seen_at >= cutoff
    return is_recent


def _find_largest(devices: Sequence[WorkerDevice], needs: JobNeeds) -> int:
    usable = [device for device in devices if needs.accelerator != "cuda" or device.accelerator == "cuda"]
    sizes = [device.ram_bytes if needs.accelerator == "cpu" else device.memory_bytes for device in usable]
    return max(size or 0 for size in sizes)
