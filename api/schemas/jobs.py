"""The bodies of jobs and of what they report and make. `submissions` has the bodies that create jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.errors import RequestProblem
from api.schemas.common import ResponseModel
from soul_core.report import Verdict
from soul_core.spec import JobKind
from soul_store.job_priority import JobPriority
from soul_store.job_status import JobStatus


class ProgressOut(ResponseModel):
    """The progress of a job."""

    fraction: float | None = None
    step: int | None = None
    total_steps: int | None = None
    unit: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = Field(None, description="Number of jobs ahead of this one, of all projects.")


class StatusReason(ResponseModel):
    """Why a job has its status."""

    code: str
    message: str
    retryable: bool
    details: list[str] = Field(default_factory=list)


class JobOut(ResponseModel):
    """A job. `status` is the state of its execution, `verdict` the result of its report."""

    id: str
    name: str
    kind: JobKind
    status: JobStatus
    phase: str | None = Field(
        description="load, compare, baseline, unlearn or finetune, evaluate, attack or export while it runs."
    )
    verdict: Verdict | None
    requested_action: str | None = Field(
        description="The action that was requested and is not complete yet: cancel or pause."
    )
    status_reason: StatusReason | None
    warnings: list[str] = Field(description="Of a queued job: why no running worker can hold it.")
    allowed_actions: list[str] = Field(description="What is possible now: cancel, pause, resume, retry.")
    priority: JobPriority
    deadline: datetime | None
    max_gpu_seconds: float | None
    metadata: dict[str, str]
    required_memory_bytes: int | None = Field(
        description="Memory that its worker must have at least: the low end of the estimate's interval."
    )
    retry_of_job_id: str | None = Field(description="The failed or cancelled job that this one repeats.")
    progress: ProgressOut
    attempt: int = Field(description="Number of attempts that failed by infrastructure.")
    model_id: str
    models: dict[str, str] = Field(description="Name -> id of the models that are evaluated in addition.")
    retrained_log_id: str | None = Field(description="The artifact that is read in place of a retrained model.")
    depends_on_job_id: str | None = Field(
        description="The job that this one waits for, or waited for: it makes the retrained model."
    )
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
    """An event of a job."""

    seq: int = Field(description="Position in the job's events, from 1; 0: an event of the stream that is not stored.")
    kind: str = Field(
        description="status, requested_action, phase, checkpoint, warning, log, finished, failed; in a stream also "
        "progress, metrics and closed."
    )
    data: dict[str, Any]
    at: datetime


class EventsOut(ResponseModel):
    """Events in order."""

    data: list[EventOut]
    has_more: bool


class MetricsOut(ResponseModel):
    """The curves of the run."""

    steps: list[int]
    curves: dict[str, list[float | None]]


class ArtifactOut(ResponseModel):
    """A file that a job made."""

    id: str
    path: str
    size_bytes: int
    sha256: str
    created_at: datetime


class DownloadUrlOut(ResponseModel):
    """A URL of the object store that reads a file without an API key."""

    url: str
    expires_at: datetime = Field(description="A download that began before continues afterwards.")
    filename: str
    size_bytes: int
    sha256: str = Field(description="Check the bytes against it: the object store does not know it.")


class EstimateBasis(ResponseModel):
    """What an estimate was learned from."""

    source: Literal["worker_kind", "other_kinds", "constants"] = Field(
        description="Where the seconds come from: finished jobs on the same kind of worker, finished jobs on other "
        "kinds, or constants because no job has finished."
    )
    num_jobs: int = Field(description="Finished jobs from which the seconds were learned.")
    memory_source: Literal["worker_kind", "other_kinds", "constants"] = Field(
        description="Where the peak memory comes from. A resumed job has no known peak."
    )
    memory_num_jobs: int = Field(description="Finished jobs from which the peak memory was learned.")
    accelerator: Literal["cpu", "cuda"]
    machine: str | None = Field(description="Name of the GPU, or of the CPU with its cores; null if unknown.")
    dtype: str = Field(description="`dtype` of the spec. Accelerator, machine and dtype are a kind of worker.")


class EstimateOut(ResponseModel):
    """The estimated cost of a job. `basis` says in words what `based_on` says in fields."""

    allowed: bool
    errors: list[RequestProblem]
    warnings: list[str]
    seconds: float | None
    seconds_interval: tuple[float, float] | None = Field(
        description="Lowest and highest seconds to expect; 9 of 10 jobs lie inside, once enough have finished."
    )
    peak_memory_bytes: int | None
    peak_memory_bytes_interval: tuple[int, int] | None = Field(
        description="Lowest and highest peak memory to expect, as `seconds_interval`."
    )
    flops: float | None
    output_bytes: int | None
    based_on: EstimateBasis | None
    basis: str
