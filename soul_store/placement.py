"""Which workers can hold a job: the accelerator and the memory that it needs, against those of a worker."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, and_, literal, or_, true

from soul_store.tables import Job

Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class WorkerDevice:
    """The device that does a worker's jobs, and its machine. Sizes are None if unknown: then every job fits."""

    accelerator: Accelerator
    machine: str | None = None
    device_id: str | None = None
    memory_bytes: int | None = None
    ram_bytes: int | None = None


@dataclass(frozen=True)
class JobNeeds:
    """What a job needs of its worker. None: any accelerator, an unknown size."""

    accelerator: Accelerator | None = None
    memory_bytes: int | None = None


def make_needs(accelerator: str | None, memory_bytes: int | None) -> JobNeeds:
    """Return the needs that a row, or a spec's `device`, states; any other accelerator than these means any."""
    known: dict[str | None, Accelerator] = {"cpu": "cpu", "cuda": "cuda"}
    return JobNeeds(known.get(accelerator), memory_bytes)


def can_hold(device: WorkerDevice, needs: JobNeeds) -> bool:
    """Return whether a job with these needs fits on the device. `fits` is the same rule in SQL."""
    if needs.accelerator == "cuda" and device.accelerator != "cuda":
        return False
    limit = device.ram_bytes if needs.accelerator == "cpu" else device.memory_bytes
    return limit is None or needs.memory_bytes is None or needs.memory_bytes <= limit


def fits(device: WorkerDevice) -> ColumnElement[bool]:
    """Return the condition under which a job's row fits on the device."""
    has_accelerator = true() if device.accelerator == "cuda" else Job.accelerator.is_distinct_from("cuda")
    on_cpu = and_(Job.accelerator == "cpu", _has_room(device.ram_bytes))
    on_device = and_(Job.accelerator.is_distinct_from("cpu"), _has_room(device.memory_bytes))
    return and_(has_accelerator, or_(on_cpu, on_device))


def _has_room(limit: int | None) -> ColumnElement[bool]:
    if limit is None:
        return true()
    return or_(Job.required_memory_bytes.is_(None), Job.required_memory_bytes <= literal(limit))
