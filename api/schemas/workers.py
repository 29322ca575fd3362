"""The bodies of the registry of workers."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.schemas.common import ResponseModel
from soul_store.workers import WorkerState


class WorkerOut(ResponseModel):
    """A worker of the fleet."""

    name: str = Field(description="Host and process.")
    state: WorkerState = Field(
        description="idle, busy, draining (it claims no more jobs), or lost: it has stopped reporting, and leaves the "
        "list after `SOUL_WORKER_EXPIRY_SECONDS`."
    )
    accelerator: Literal["cpu", "cuda"]
    device: str | None = Field(description="Name of the GPU, or of the CPU with its cores.")
    memory_bytes: int | None = Field(description="Memory of the device.")
    ram_bytes: int | None = Field(description="Memory of the machine or of the container.")
    load: float | None = Field(description="Processes that wanted to run, per core, in the last minute.")
    job_id: str | None = Field(description="The job that it runs, if it is one of your project.")
    busy_since: datetime | None
    started_at: datetime
    last_seen_at: datetime
    versions: dict[str, str] = Field(description="Package -> version.")


class WorkersOut(ResponseModel):
    """The workers, by name."""

    data: list[WorkerOut]
