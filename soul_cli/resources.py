"""What the service answers, as the client sees it. Unknown fields are kept: a newer server breaks no older client."""

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
    """An uploaded data set."""

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
    """How far a job is."""

    fraction: float | None = None
    step: int | None = None
    total_steps: int | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None


class Job(Resource):
    """A job: status says how the execution goes, verdict what came of it."""

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

    @property
    def is_terminal(self) -> bool:
        """Tell whether nothing more will happen to it."""
        return self.status in TERMINAL_STATUSES


class JobEvent(Resource):
    """One thing that happened to a job. `kind` and `data` as soul_core.events.Event, and the job's own changes.

    `seq` 0 (progress, metrics): where the job is now; not kept, and told only to those who watch.
    """

    seq: int
    kind: str
    data: dict[str, Any] = Field(default_factory=dict)
    at: datetime | None = None


class Artifact(Resource):
    """A file that a job made."""

    id: str
    path: str
    size_bytes: int
    sha256: str


class Estimate(Resource):
    """What a job would cost, and whether it would be taken."""

    allowed: bool
    errors: list[Any] = Field(default_factory=list)
    warnings: list[Any] = Field(default_factory=list)
