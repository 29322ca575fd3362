"""The report: what was measured, before and after, and what follows from it. JSON is the source. Torch-free."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from soul_core.spec import Criterion, JobSpec

SCHEMA_VERSION = "1"
Verdict = Literal["passed", "failed", "inconclusive"]


class Part(BaseModel):
    """Base of everything in a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class MetricValue(Part):
    """One metric on one set with one model. Absent (value None) always says why."""

    value: float | None = Field(description="The aggregate, in the metric's unit.")
    interval: tuple[float, float] | None = Field(None, description="Bootstrap confidence interval of the aggregate.")
    count: int = Field(0, description="Examples behind the value.")
    per_example: tuple[float | None, ...] | None = Field(None, description="One value a row, in the set's order.")
    weights: tuple[float, ...] | None = Field(
        None, description="Weight of each row in the aggregate; none: all rows count alike."
    )
    absent_reason: str | None = Field(None, description="Why there is no value.")


SetMetrics = dict[str, MetricValue]  # metric -> value


class ModelMeasurements(Part):
    """All that was measured of one model: set -> metric -> value."""

    sets: dict[str, SetMetrics]
    rows: dict[str, tuple[int, ...]] = Field({}, description="Set -> row numbers behind each per_example, in order.")


class SideBySide(Part):
    """One question, answered by each model."""

    set: str
    row: int = Field(description="1-based row number in the data set.")
    prompt: str
    expected: str
    answers: dict[str, str] = Field(description="Model name (base, unlearned, ...) -> its greedy answer.")


class CriterionResult(Part):
    """How one criterion came out."""

    criterion: Criterion
    outcome: Verdict
    value: float | None
    interval: tuple[float, float] | None
    bound: float | None = Field(description="The bound in the metric's unit, after relative_to_base.")
    reason: str


class DataFacts(Part):
    """One data set as it was used."""

    name: str
    sha256: str
    num_rows: int
    num_tokens: int
    num_answer_tokens: int


class ModelFacts(Part):
    """The base model as it was used."""

    source: str
    digest: str = Field(description="sha256 over names and hashes of the model's files, or the hub's commit id.")
    architecture: str
    num_parameters: int
    context_tokens: int
    chat_template: bool


class RunFacts(Part):
    """How the run went."""

    started_at: datetime
    finished_at: datetime
    seconds: dict[str, float] = Field(description="Phase -> seconds, over all attempts.")
    steps: int
    train_tokens: int = Field(description="Real (unpadded) tokens that went through training forwards.")
    flops: float = Field(description="Estimate: 6 x parameters x trained tokens, curvature included.")
    peak_memory_bytes: int
    device: str
    dtype: str
    resumed_at_steps: tuple[int, ...] = ()
    curves: dict[str, tuple[float | None, ...]] = Field(description="Curve name -> one value a step.")


class Report(Part):
    """The whole report of one job."""

    schema_version: Literal["1"] = "1"
    job_id: str | None = None
    spec: JobSpec
    spec_sha256: str
    model: ModelFacts
    data: tuple[DataFacts, ...]
    models: dict[str, ModelMeasurements] = Field(description="base, unlearned and, where given, reference.")
    examples: tuple[SideBySide, ...]
    criteria: tuple[CriterionResult, ...]
    verdict: Verdict
    verdict_reason: str = Field(description="The verdict in plain words; never more than was measured.")
    run: RunFacts
    versions: dict[str, str]
    limits: tuple[str, ...] = Field(description="What was not measured, and what the numbers cannot say.")
