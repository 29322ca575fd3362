"""The bodies HTTP speaks. A job's spec IS soul_core.spec.JobSpec."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from soul_core.rows import Format
from soul_core.spec import SET_NAME, JobSpec
from soul_core.spec_terms import Frozen

T = TypeVar("T")
Name = Annotated[str, Field(min_length=1, max_length=200)]
SetName = Annotated[str, Field(pattern=SET_NAME)]


class Out(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(from_attributes=True)


class Page(Out, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next page.")


# --- data sets ---


class DatasetCreate(Frozen):
    """A data set whose content follows by PUT."""

    name: Name
    filename: Name | None = Field(None, description="The file's own name: tells the format where `format` does not.")
    format: Format | None = Field(None, description="Else told by the file name, else by the content.")
    mapping: dict[str, str] = Field(
        default_factory=dict,
        description="Accepted column (prompt, completion, question, answer, messages, text) -> the file's column.",
        examples=[{"prompt": "input", "completion": "output"}],
    )


class DatasetOut(Out):
    """A data set."""

    id: str
    name: str
    status: Literal["awaiting_content", "ready", "invalid"]
    format: str | None
    mapping: dict[str, str]
    num_rows: int | None
    size_bytes: int | None = Field(description="Of the upload.")
    sha256: str | None = Field(description="Of the upload's bytes.")
    content_sha256: str | None = Field(description="Of the rows, whatever the format: equal sets have equal ones.")
    created_at: datetime


class BadRow(Out):
    """One fault of one row."""

    row: int = Field(description="1-based line or record of the file.")
    column: str | None
    detail: str


class ValidationOut(Out):
    """What was found in an upload."""

    usable: bool
    format: str | None = None
    num_rows: int = 0
    columns: list[str] = Field(default_factory=list)
    used_columns: list[str] = Field(default_factory=list)
    problems: list[BadRow] = Field(default_factory=list, description="Every bad row.")
    duplicates: list[list[int]] = Field(default_factory=list, description="Groups of rows that say the same.")
    error: str | None = Field(None, description="Why the file as a whole could not be read.")


class PreviewOut(Out):
    """The first rows as the engine reads them."""

    rows: list[dict[str, Any]]


class DeletionReceipt(Out):
    """Proof that a data set's content was deleted."""

    id: str
    deleted_at: datetime
    sha256: str | None
    num_rows: int | None


# --- models ---


class HubModel(Frozen):
    """A model of the hub, pinned to the commit its revision stands at now."""

    source: Literal["hub"]
    location: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    revision: str | None = Field(None, description="Branch, tag or commit; default: the main branch.")
    name: Name | None = None


class LocalModel(Frozen):
    """A folder with config.json, tokenizer and safetensors, on the server's own disk."""

    source: Literal["local"]
    location: str = Field(description="Absolute path below one of SOUL_MODEL_ROOTS.")
    name: Name | None = None


class GgufModel(Frozen):
    """A GGUF file on the server's own disk; dequantised when it is used."""

    source: Literal["gguf"]
    location: str = Field(description="Absolute path below one of SOUL_MODEL_ROOTS.")
    name: Name | None = None


class JobModel(Frozen):
    """The checkpoint an earlier job made."""

    source: Literal["job"]
    location: str = Field(description="The job's id.", examples=["job_01k9"])
    name: Name | None = None


ModelCreate = Annotated[HubModel | LocalModel | GgufModel | JobModel, Field(discriminator="source")]


class ModelOut(Out):
    """A registered model."""

    id: str
    name: str
    source: Literal["hub", "local", "gguf", "job"]
    location: str
    revision: str | None
    digest: str | None = Field(description="sha256 over the names and hashes of its files; a hub model has its commit.")
    facts: dict[str, Any] = Field(description="architecture, num_parameters, context_tokens, chat_template, ...")
    parent_job_id: str | None
    created_at: datetime


# --- jobs ---


class JobCreate(Frozen):
    """A job: which model, which data sets, and the spec."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "forget customer 4711",
                    "model_id": "mdl_01k9",
                    "datasets": {"forget": "ds_01k9a", "retain": "ds_01k9b", "general": "ds_01k9c"},
                    "spec": {"forget": {"kind": "npo"}, "optimizer": {"kind": "sophia", "lr": 2e-5}},
                }
            ]
        }
    )

    name: str = Field("", max_length=200, description="For people.")
    model_id: str = Field(description="The base model.")
    datasets: dict[SetName, str] = Field(
        description="Set name -> data set id. `forget` is needed, `retain` by most retain terms, `general` (plain "
        "text) for perplexity; any other name is measured too."
    )
    spec: JobSpec = JobSpec()


class ProgressOut(Out):
    """How far a job is."""

    fraction: float | None = None
    step: int | None = None
    total_steps: int | None = None
    unit: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = Field(None, description="Jobs ahead of this one.")


class StatusReason(Out):
    """Why a job is where it is."""

    code: str
    message: str
    retryable: bool
    details: list[str] = Field(default_factory=list)


class JobOut(Out):
    """A job. `status` says how the execution goes, `verdict` what came of it."""

    id: str
    name: str
    status: str
    phase: str | None = Field(description="load, baseline, unlearn, evaluate or export while it runs.")
    verdict: Literal["passed", "failed", "inconclusive"] | None
    wish: str | None = Field(description="What was asked of it and is under way: cancel.")
    status_reason: StatusReason | None
    allowed_actions: list[str]
    progress: ProgressOut
    attempt: int = Field(description="Times it was lost to infrastructure.")
    model_id: str
    datasets: dict[str, str]
    spec: dict[str, Any]
    spec_sha256: str
    usage: dict[str, float]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    links: dict[str, str]


class EventOut(Out):
    """One thing that happened to a job."""

    seq: int
    kind: str = Field(description="status, wish, phase, checkpoint, warning, log, finished, failed.")
    data: dict[str, Any]
    at: datetime


class EventsOut(Out):
    """Events in order."""

    data: list[EventOut]
    has_more: bool


class MetricsOut(Out):
    """The run's curves."""

    steps: list[int]
    curves: dict[str, list[float | None]]


class ArtifactOut(Out):
    """A file that a job made."""

    id: str
    path: str
    size_bytes: int
    sha256: str
    created_at: datetime


class EstimateOut(Out):
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


class KeyCreate(Frozen):
    """A new API key. It cannot have scopes its maker lacks."""

    name: Name
    scopes: list[str] = Field(min_length=1, examples=[["jobs:read", "jobs:write", "datasets:write"]])
    expires_at: datetime | None = None


class KeyOut(Out):
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


class MeOut(Out):
    """Who the credential is."""

    tenant_id: str
    key_id: str
    scopes: list[str]
