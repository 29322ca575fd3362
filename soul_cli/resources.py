"""The service's resources as the client reads them. Unknown fields are kept: a newer server breaks no older client."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

TERMINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


class Resource(BaseModel):
    """Base of all resources."""

    model_config = ConfigDict(extra="allow", frozen=True)


T = TypeVar("T", bound=Resource)


class Page(Resource, Generic[T]):
    """One page of a list."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = None


class Dataset(Resource):
    """An uploaded dataset."""

    id: str
    name: str
    status: str
    format: str | None = None
    num_rows: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    created_at: datetime | None = None


class Model(Resource):
    """A registered model."""

    id: str
    name: str
    source: str
    location: str | None = None
    revision: str | None = None
    digest: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None


class Progress(Resource):
    """The progress of a job."""

    fraction: float | None = None
    step: int | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None


class Job(Resource):
    """A job: `status` is the state of its execution, `verdict` the result by its criteria."""

    id: str
    name: str = ""
    kind: str = "unlearn"
    status: str
    phase: str | None = None
    verdict: str | None = None
    status_reason: dict[str, Any] | None = None
    allowed_actions: list[str] = Field(default_factory=list)
    progress: Progress = Progress()
    model_id: str | None = None
    models: dict[str, str] = Field(default_factory=dict)
    depends_on_job_id: str | None = None
    datasets: dict[str, str] = Field(default_factory=dict)
    spec: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    usage: dict[str, Any] = Field(default_factory=dict)
    requested_action: str | None = None
    warnings: list[str] = Field(default_factory=list)
    priority: str = "normal"
    deadline: datetime | None = None
    max_gpu_seconds: float | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    retry_of_job_id: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has finished."""
        return self.status in TERMINAL_STATUSES


class JobEvent(Resource):
    """An event of a job: `kind` and `data` of a soul_core.events.Event, or a change of the job's status.

    Events with `seq` 0 (progress, metrics) state the current values; they are sent to open streams and not stored.
    """

    seq: int
    kind: str
    data: dict[str, Any] = Field(default_factory=dict)
    at: datetime | None = None


class LogLine(Resource):
    """A line of a job's log. Further members depend on the message."""

    seq: int
    attempt: int
    at: datetime
    level: str
    message: str
    source: str = "service"


class Artifact(Resource):
    """A file that a job wrote."""

    id: str
    path: str
    size_bytes: int
    sha256: str


class Worker(Resource):
    """A worker of the fleet. `job_id`: the job that it runs, if it is one of the own project."""

    name: str
    state: str
    accelerator: str
    device: str | None = None
    memory_bytes: int | None = None
    load: float | None = None
    job_id: str | None = None
    busy_since: datetime | None = None
    started_at: datetime | None = None
    last_seen_at: datetime | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class EstimateBasis(Resource):
    """What an estimate was learned from."""

    source: str
    num_jobs: int
    machine: str | None = None


class Estimate(Resource):
    """What a job would cost, and whether it would be accepted."""

    allowed: bool
    errors: list[Any] = Field(default_factory=list)
    warnings: list[Any] = Field(default_factory=list)
    seconds: float | None = None
    seconds_interval: tuple[float, float] | None = None
    peak_memory_bytes: int | None = None
    peak_memory_bytes_interval: tuple[int, int] | None = None
    flops: float | None = None
    output_bytes: int | None = None
    based_on: EstimateBasis | None = None
    basis: str = ""
