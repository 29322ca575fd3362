"""The bodies HTTP speaks of jobs and accounts; `job_schemas.py` has what is submitted, `input_schemas.py` data sets
and models.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from soul_core.report import Verdict
from soul_core.spec import JobKind
from soul_core.spec.terms import SET_NAME_PATTERN, SpecModel

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=200)]
JobStatus = Literal["awaiting_approval", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
SetName = Annotated[str, Field(pattern=SET_NAME_PATTERN)]


class ResponseModel(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(from_attributes=True)


class Page(ResponseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next page.")


# --- jobs; their bodies are in job_schemas.py ---


class ProgressOut(ResponseModel):
    """How far a job is."""

    fraction: float | None = None
    step: int | None = None
    total_steps: int | None = None
    unit: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = Field(None, description="Jobs ahead of this one.")


class StatusReason(ResponseModel):
    """Why a job is where it is."""

    code: str
    message: str
    retryable: bool
    details: list[str] = Field(default_factory=list)


class JobOut(ResponseModel):
    """A job. `status` says how the execution goes, `verdict` what came of it."""

    id: str
    name: str
    kind: JobKind
    status: JobStatus
    phase: str | None = Field(
        description="load, reference, baseline, unlearn or finetune, evaluate, attack or export while it runs."
    )
    verdict: Verdict | None
    requested_action: str | None = Field(description="What was asked of it and is under way: cancel.")
    status_reason: StatusReason | None
    allowed_actions: list[str]
    progress: ProgressOut
    attempt: int = Field(description="Times it was lost to infrastructure.")
    model_id: str
    models: dict[str, str] = Field(description="Name -> model id: the models measured beside it.")
    retrained_log_id: str | None = Field(description="The artifact read in place of a retrained reference.")
    depends_on_job_id: str | None = Field(description="The job it waits for, or waited for: it retrains the reference.")
    datasets: dict[str, str]
    spec: dict[str, Any]
    spec_sha256: str
    usage: dict[str, float]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    links: dict[str, str]


class EventOut(ResponseModel):
    """One thing that happened to a job."""

    seq: int
    kind: str = Field(description="status, requested_action, phase, checkpoint, warning, log, finished, failed.")
    data: dict[str, Any]
    at: datetime


class EventsOut(ResponseModel):
    """Events in order."""

    data: list[EventOut]
    has_more: bool


class MetricsOut(ResponseModel):
    """The run's curves."""

    steps: list[int]
    curves: dict[str, list[float | None]]


class ArtifactOut(ResponseModel):
    """A file that a job made."""

    id: str
    path: str
    size_bytes: int
    sha256: str
    created_at: datetime


class MethodOut(ResponseModel):
    """One choice of a spec."""

    kind: str
    description: str
    json_schema: dict[str, Any] = Field(alias="schema")
    defaults: dict[str, Any]


class SpecOut(ResponseModel):
    """The whole spec."""

    json_schema: dict[str, Any] = Field(alias="schema")
    defaults: dict[str, Any]


class MethodsOut(ResponseModel):
    """What a spec may say."""

    forget_terms: list[MethodOut]
    retain_terms: list[MethodOut]
    optimizers: list[MethodOut]
    curvatures: list[MethodOut]
    wrappers: list[MethodOut] = Field(description="`kind` is the field of the spec.")
    strategies: list[MethodOut]
    attacks: list[MethodOut]
    metrics: list[dict[str, Any]] = Field(description="Name, description, direction and default bounds of each metric.")
    tasks: list[dict[str, Any]] = Field(description="Published problems with ready specs: sets, recipe, sources.")
    spec: SpecOut


class EstimateOut(ResponseModel):
    """What a job would cost. An estimate: see `basis`."""

    allowed: bool
    errors: list[dict[str, str]]
    warnings: list[str]
    seconds: float | None
    peak_memory_bytes: int | None
    flops: float | None
    output_bytes: int | None
    basis: str


# --- account ---


class KeyCreate(SpecModel):
    """A new API key. It cannot have scopes its maker lacks."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "scopes": ["jobs:read", "jobs:write"]}]})

    name: Name
    scopes: list[str] = Field(min_length=1, examples=[["jobs:read", "jobs:write", "datasets:write"]])
    expires_at: datetime | None = None


class KeyOut(ResponseModel):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyOut(KeyOut):
    """A key just made: the only time its text is shown."""

    key: str


class MeOut(ResponseModel):
    """Who the credential is."""

    tenant_id: str
    key_id: str
    scopes: list[str]
