"""The report: what was measured, before and after, and what follows from it. JSON is the source. Torch-free."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from soul_core.spec import Criterion, JobSpec

SCHEMA_VERSION = "2"
ConflictHandling = Literal["dropped", "kept", "measured"]
#: How a row of another set was found to hold a forget fact, the surest first.
ConflictLayer = Literal["question", "fact", "near_duplicate"]
#: Lower and upper bound.
Interval = tuple[float, float]


class Verdict(StrEnum):
    """What the criteria of a report decide."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class ReportModel(BaseModel):
    """Base of everything in a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class MetricValue(ReportModel):
    """One metric on one set with one model. Absent (value None) always says why."""

    value: float | None = Field(description="The aggregate, in the metric's unit.")
    interval: Interval | None = Field(
        None,
        description="Bootstrap confidence interval of the aggregate: BCa for a mean of rows, percentile where BCa is "
        "not defined (all rows have the same value) and for metrics that are not a mean of rows.",
    )
    count: int = Field(0, description="Examples behind the value.")
    per_example: tuple[float | None, ...] | None = Field(None, description="One value a row, in the set's order.")
    weights: tuple[float, ...] | None = Field(
        None, description="Weight of each row in the aggregate; none: all rows count alike."
    )
    absent_reason: str | None = Field(None, description="Why there is no value.")


SetMetrics = dict[str, MetricValue]  # metric -> value


class RowDigestKey(ReportModel):
    """The key under which digests of rows were made."""

    id: str = Field(description="Names the key: digests can be compared where their keys have the same id.")
    key: str | None = Field(
        None,
        description="The key itself, in hex, in reports that a user made on their own machine. None: a service keeps "
        "it, so that rows cannot be guessed from their digests.",
    )


class ModelMeasurements(ReportModel):
    """All that was measured of one model: set -> metric -> value."""

    sets: dict[str, SetMetrics]
    rows: dict[str, tuple[int, ...]] = Field({}, description="Set -> row numbers behind each per_example, in order.")
    digests: dict[str, tuple[str, ...]] = Field(
        {},
        description="Set -> keyed digest of each row's content, in the order of `rows`: by it a reference's rows are "
        "matched, not by their position. A row with paraphrased and wrong answers has a second part, after a dot, for "
        "those. Empty: a report of an earlier version, or a log of another project.",
    )
    row_key: RowDigestKey | None = None


class AnswerSample(ReportModel):
    """One question, answered by each model."""

    set: str
    row: int = Field(description="1-based row number in the data set.")
    prompt: str
    expected: str
    answers: dict[str, str] = Field(description="Model name (base, unlearned, ...) -> its greedy answer.")
    preambles: dict[str, str] = Field(
        {},
        description="Model name -> what it wrote before that answer (a thinking block, a channel); no metric reads it.",
    )


class FlaggedRow(ReportModel):
    """One row that an audit for poisoned forget rows points at. Never its text: row numbers only."""

    set: str
    row: int = Field(description="1-based row number in the data set.")
    value: float = Field(description="What the row was chosen by; the finding says what it is.")


class Finding(ReportModel):
    """A list of rows with what they were chosen by."""

    title: str
    description: str
    rows: tuple[FlaggedRow, ...]


class AttackResult(ReportModel):
    """One attack: what each model gave away under it."""

    label: str = Field(description="Its name in criteria: relearn, quantize_4bit, prompting, ...")
    settings: dict[str, Any] = Field(description="The attack as the spec has it.")
    baseline: dict[str, dict[str, SetMetrics]] = Field(
        description="Model -> set -> metrics on the same rows without the attack."
    )
    attacked: dict[str, dict[str, SetMetrics]] = Field(description="Model -> set -> metrics under the attack.")
    rows: dict[str, tuple[int, ...]] = Field({}, description="Set -> row numbers behind each per_example, in order.")
    variants: dict[str, dict[str, SetMetrics]] = Field(
        {}, description="Way of asking, or layer -> model -> metrics on the forget set; `under` has the worst case."
    )
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    absent_reason: str | None = Field(None, description="Why the attack was not run.")


TrialOutcome = Literal["met", "finished", "pruned", "diverged"]


class TrialResult(ReportModel):
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


class CriterionResult(ReportModel):
    """How one criterion came out."""

    criterion: Criterion
    outcome: Verdict
    value: float | None
    interval: Interval | None
    bound: float | None = Field(description="The bound in the metric's unit, after relative_to_base.")
    reason: str


class RowConflict(ReportModel):
    """One row that states, or asks for, a fact of a forget row. Never its text: row numbers only."""

    row: int = Field(description="1-based row number in the other set.")
    forget_row: int = Field(description="1-based row number in the forget set.")
    layer: ConflictLayer = Field(
        description="What found it. question: the same last user turn. fact: the keywords of answer and subject. "
        "near_duplicate: nearly the same letters."
    )


class SetConflicts(ReportModel):
    """What a data set has in common with a forget set."""

    forget_set: str = Field(description="forget, or an earlier one.")
    other_set: str
    num_rows: int = Field(description="Rows of the other set that state, or ask for, facts of the forget set.")
    handling: ConflictHandling = Field(
        description="dropped: left out of training, measured apart. kept: learned all the same. measured: not learned."
    )
    rows: tuple[RowConflict, ...] = Field(description="By row; at most 20 forget rows for each.")


class Recital(ReportModel):
    """One row of a set on which the judged model gives away a fact that was to be forgotten. Row numbers only."""

    set: str
    row: int = Field(description="1-based row number in that set.")
    forget_set: str
    forget_row: int = Field(description="1-based row number in the forget set.")
    evidence: Literal["answer", "probability"] = Field(
        description="answer: the model's own answer holds the fact's keywords. probability: the row states the fact, "
        "was not asked, and its tokens have a mean probability of at least 0.9."
    )


class DatasetFacts(ReportModel):
    """One data set as it was used."""

    name: str
    sha256: str = Field(description="Of all rows as they were given.")
    num_rows: int = Field(description="Rows that were used.")
    dropped_rows: tuple[int, ...] = Field(
        (), description="Row numbers that were left out: they state facts of a forget set."
    )
    num_tokens: int
    num_answer_tokens: int


class ModelFacts(ReportModel):
    """The base model as it was used."""

    source: str
    digest: str = Field(description="sha256 over names and hashes of the model's files, or the hub's commit id.")
    architecture: str
    num_parameters: int
    context_tokens: int
    chat_template: bool
    batches: Literal["packed", "padded"] = Field(
        "packed",
        description="How examples went through the model together: laid end to end without padding, or as padded rows "
        "where the architecture's attention cannot keep packed examples apart. The numbers are the same.",
    )


class RowMatch(ReportModel):
    """How the rows of a reference's log were found to be those of this run."""

    by: Literal["content", "texts", "position"] = Field(
        description="content: keyed digests of the rows. texts: questions and answers that the log holds. position: "
        "row numbers, where the log has neither; nothing shows then that they are the same rows."
    )
    num_common: int = Field(description="Rows measured in this run that the log has too: those are compared.")
    num_rows: int = Field(description="Rows of the set measured in this run.")
    num_in_log: int = Field(description="Rows of the set in the log.")
    num_other_answers: int = Field(
        0, description="Common rows whose paraphrased or wrong answers differ: metrics of those leave them out."
    )


class RetrainedModelFacts(ReportModel):
    """The model retrained without the forget set: what perfect forgetting would look like."""

    source: str
    digest: str
    from_log: bool = Field(description="Its numbers were read from a log; the model itself was not there.")
    matches: dict[str, RowMatch] = Field({}, description="Set -> how the log's rows were matched; empty: no log.")


class RunFacts(ReportModel):
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
    environment: dict[str, str] = Field(
        {}, description="Threads, kernels and variables of the process that can change the last bits of a number."
    )
    resumed_at_steps: tuple[int, ...] = ()
    curves: dict[str, tuple[float | None, ...]] = Field(description="Curve name -> one value a step.")


class GgufFacts(ReportModel):
    """The GGUF file beside the checkpoint, as it was read back."""

    path: str
    kind: str = Field(description="f16 or q8_0.")
    max_error: float = Field(description="Largest difference of a weight from the checkpoint's.")
    relative_error: float = Field(description="Norm of that difference over the norm of the weights.")
    notes: tuple[str, ...] = Field((), description="Where programs that read it may differ.")


class ExportFacts(ReportModel):
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


class Report(ReportModel):
    """The whole report of one job."""

    schema_version: Literal["2"] = "2"
    job_id: str | None = None
    spec: JobSpec
    spec_sha256: str
    template_date: date | None = Field(
        None, description="The day on which the chat template rendered; absent where it asks for none."
    )
    model: ModelFacts
    data: tuple[DatasetFacts, ...]
    models: dict[str, ModelMeasurements] = Field(description="base, unlearned (or finetuned, audited), reference, ...")
    retrained: RetrainedModelFacts | None = Field(None, description="The retrained model, where one was given.")
    attacks: tuple[AttackResult, ...] = ()
    trials: tuple[TrialResult, ...] = Field((), description="Of a search or an ensemble, in their order.")
    examples: tuple[AnswerSample, ...]
    criteria: tuple[CriterionResult, ...]
    conflicts: tuple[SetConflicts, ...] = Field(
        (), description="Rows of other sets that state, or ask for, facts of the forget sets, by pair of sets."
    )
    recitals: tuple[Recital, ...] = Field(
        (),
        description="Rows on which the judged model still gives away forgotten facts, where no criterion bounds that: "
        "with one of them the verdict is failed.",
    )
    verdict: Verdict
    verdict_reason: str = Field(description="The verdict in plain words; never more than was measured.")
    run: RunFacts
    export: ExportFacts | None = Field(None, description="What was written; an evaluation writes no model.")
    versions: dict[str, str]
    limits: tuple[str, ...] = Field(description="What was not measured, and what the numbers cannot say.")
