"""The report: what was measured, before and after, and what follows from it. JSON is the source. Torch-free."""

from datetime import datetime
from typing import Any, Literal

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


class HitRow(Part):
    """One row that an audit for poisoned forget rows points at. Never its text: row numbers only."""

    set: str
    row: int = Field(description="1-based row number in the data set.")
    value: float = Field(description="What the row was chosen by; the finding says what it is.")


class Finding(Part):
    """A list of rows with what they were chosen by."""

    title: str
    description: str
    rows: tuple[HitRow, ...]


class AttackResult(Part):
    """One attack: what each model gave away under it."""

    label: str = Field(description="Its name in criteria: relearn, quantise_4bit, prompting, ...")
    settings: dict[str, Any] = Field(description="The attack as the spec has it.")
    without: dict[str, dict[str, SetMetrics]] = Field(
        description="Model -> set -> metrics on the same rows without the attack."
    )
    under: dict[str, dict[str, SetMetrics]] = Field(description="Model -> set -> metrics under the attack.")
    rows: dict[str, tuple[int, ...]] = Field({}, description="Set -> row numbers behind each per_example, in order.")
    variants: dict[str, dict[str, SetMetrics]] = Field(
        {}, description="Way of asking, or layer -> model -> metrics on the forget set; `under` has the worst case."
    )
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    absent_reason: str | None = Field(None, description="Why the attack was not run.")


TrialOutcome = Literal["met", "finished", "pruned", "diverged"]


class TrialResult(Part):
    """One training of a search or an ensemble."""

    number: int
    settings: dict[str, Any] = Field(description="What it had otherwise than the job's spec: dotted place -> value.")
    steps: int
    outcome: TrialOutcome = Field(
        description="How it ended. met: all criteria held on the rows looked at. pruned: given up, it lagged behind."
    )
    shortfall: float | None = Field(
        description="How far the criteria are from holding, each from 0 (it holds) over 1 (as the base) to 2, summed."
    )
    values: dict[str, float | None] = Field(description="Criterion -> value at `kept_step`.")
    kept_step: int | None = Field(
        None,
        description="The step at which it missed least: shortfall and values are those there, and so are the weights "
        "where it is chosen. None: it diverged before the first look.",
    )
    seconds: float
    chosen: bool = Field(description="Its weights are (or went into) the result.")


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


class ReferenceFacts(Part):
    """The model retrained without the forget set: what perfect forgetting would look like."""

    source: str
    digest: str
    from_log: bool = Field(description="Its numbers were read from a log; the model itself was not there.")


class RunFacts(Part):
    """How the run went."""

    started_at: datetime
    finished_at: datetime
    seconds: dict[str, float] = Field(description="Phase -> seconds, over all attempts.")
    steps: int
    train_tokens: int = Field(description="Real (unpadded) tokens that went through training forwards.")
    flops: float = Field(description="Estimate: 6 x parameters x trained tokens, curvature included.")
    flops_of_training: float | None = Field(
        None, description="The same estimate for the base model's own training, where its tokens are known."
    )
    peak_memory_bytes: int
    device: str
    dtype: str
    resumed_at_steps: tuple[int, ...] = ()
    curves: dict[str, tuple[float | None, ...]] = Field(description="Curve name -> one value a step.")


class GgufFacts(Part):
    """The GGUF file beside the checkpoint, as it was read back."""

    path: str
    kind: str = Field(description="f16 or q8_0.")
    max_error: float = Field(description="Largest difference of a weight from the checkpoint's.")
    relative_error: float = Field(description="Norm of that difference over the norm of the weights.")
    notes: tuple[str, ...] = Field((), description="Where programs that read it may differ.")


class ExportFacts(Part):
    """What was written of the judged model. Its numbers in this report are those of the written weights."""

    dtype: str = Field(description="Type of the weights in the files: float32, bfloat16, float16, or mixed.")
    is_adapter: bool = Field(False, description="Adapters alone were written, unrounded; they need their base model.")
    changed_share_kept: float | None = Field(
        None,
        description="Of the weights that training changed, the share that still differs from the base model's after "
        "rounding to that type. None: nothing changed, or the base's files could not be compared.",
    )
    rounding_error: float | None = Field(
        None, description="Norm of the rounding error over the norm of what training changed, over changed weights."
    )
    gguf: GgufFacts | None = None


class Report(Part):
    """The whole report of one job."""

    schema_version: Literal["1"] = "1"
    job_id: str | None = None
    spec: JobSpec
    spec_sha256: str
    model: ModelFacts
    data: tuple[DataFacts, ...]
    models: dict[str, ModelMeasurements] = Field(description="base, unlearned (or finetuned, audited), reference, ...")
    reference: ReferenceFacts | None = Field(None, description="The retrained model, where one was given.")
    attacks: tuple[AttackResult, ...] = ()
    trials: tuple[TrialResult, ...] = Field((), description="Of a search or an ensemble, in their order.")
    examples: tuple[SideBySide, ...]
    criteria: tuple[CriterionResult, ...]
    verdict: Verdict
    verdict_reason: str = Field(description="The verdict in plain words; never more than was measured.")
    run: RunFacts
    export: ExportFacts | None = Field(None, description="What was written; an evaluation writes no model.")
    versions: dict[str, str]
    limits: tuple[str, ...] = Field(description="What was not measured, and what the numbers cannot say.")
