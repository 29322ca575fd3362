"""The report: what was measured before and after, and the verdict. The JSON is the source of page and card. Torch-free.

`measurements` holds the numbers, `facts` what was used and written, this module what follows from them.
"""

from datetime import date
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from soul_core.report.facts import (
    DatasetFacts,
    DatasetOrigin,
    ExportFacts,
    GeneratedRetainFacts,
    GgufFacts,
    ModelFacts,
    RefusalReason,
    RetainPart,
    RetrainedModelFacts,
    RowMatch,
    RunFacts,
)
from soul_core.report.measurements import (
    AnswerSample,
    AttackResult,
    Finding,
    FlaggedRow,
    Interval,
    LeakFacts,
    MetricValue,
    ModelMeasurements,
    ReportModel,
    RowDigestKey,
    SetMetrics,
    TemperatureLeaks,
)
from soul_core.spec import Criterion, JobSpec

__all__ = [
    "SCHEMA_VERSION",
    "AnswerSample",
    "AttackResult",
    "ConflictHandling",
    "ConflictLayer",
    "CriterionResult",
    "DatasetFacts",
    "DatasetOrigin",
    "ExportFacts",
    "Finding",
    "FlaggedRow",
    "GeneratedRetainFacts",
    "GgufFacts",
    "Interval",
    "LeakFacts",
    "MetricValue",
    "ModelFacts",
    "ModelMeasurements",
    "Recital",
    "RefusalReason",
    "Report",
    "ReportModel",
    "RetainPart",
    "RetrainedModelFacts",
    "RowConflict",
    "RowDigestKey",
    "RowMatch",
    "RunFacts",
    "SetConflicts",
    "SetMetrics",
    "TemperatureLeaks",
    "TrialOutcome",
    "TrialResult",
    "Verdict",
]

SCHEMA_VERSION = "2"
ConflictHandling = Literal["dropped", "kept", "measured"]
#: What shows that a row of another set states a forget fact, the strongest evidence first.
ConflictLayer = Literal["question", "fact", "near_duplicate"]


class Verdict(StrEnum):
    """What the criteria of a report decide."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


TrialOutcome = Literal["met", "finished", "pruned", "diverged"]


class TrialResult(ReportModel):
    """One training of a search or an ensemble."""

    number: int
    settings: dict[str, Any] = Field(
        description="Settings that differ from the job's spec: dotted place in the spec -> value."
    )
    steps: int
    outcome: TrialOutcome = Field(
        description="How the trial ended. met: it met all criteria on the measured rows. finished: it took all steps. "
        "pruned: the search ended it because it fell behind. diverged: a number was not finite."
    )
    shortfall: float | None = Field(
        description="Distance from meeting the criteria: the sum of one number per criterion, 0 if the trial meets it, "
        "1 at the base model's value, at most 2."
    )
    values: dict[str, float | None] = Field(description="Criterion -> value at `kept_step`.")
    kept_step: int | None = Field(
        None,
        description="The step with the smallest shortfall. Shortfall and values are of this step, and so are the "
        "weights of a chosen trial. Absent: the trial diverged before the first measurement.",
    )
    seconds: float
    chosen: bool = Field(description="Whether its weights are the result, or a part of it.")


class CriterionResult(ReportModel):
    """One criterion with the value that decides it."""

    criterion: Criterion
    outcome: Verdict = Field(
        description="passed: the complete confidence interval is within the bound. failed: it is outside. "
        "inconclusive: the bound is inside the interval, or there is no value."
    )
    value: float | None = Field(description="The measured value, in the metric's unit.")
    interval: Interval | None = Field(description="Its confidence interval.")
    bound: float | None = Field(
        description="The bound in the metric's unit: for a factor of the base model's value, that product."
    )
    reason: str


class RowConflict(ReportModel):
    """One row that states, or asks for, a fact of a forget row. It holds row numbers, never texts."""

    row: int = Field(description="Row number in the other set, counted from 1.")
    forget_row: int = Field(description="Row number in the forget set, counted from 1.")
    layer: ConflictLayer = Field(
        description="What shows it. question: the same last user turn. fact: the keywords of answer and subject. "
        "near_duplicate: nearly the same letters."
    )


class SetConflicts(ReportModel):
    """What a data set has in common with a forget set."""

    forget_set: str = Field(description="forget, or a prior forget set.")
    other_set: str
    num_rows: int = Field(description="Rows of the other set that state, or ask for, facts of the forget set.")
    handling: ConflictHandling = Field(
        description="dropped: left out of training and measured separately. kept: learned. measured: only measured."
    )
    rows: tuple[RowConflict, ...] = Field(description="Ordered by row; at most 20 forget rows for each row.")


class Recital(ReportModel):
    """One row on which the judged model still states a fact of a forget set. It holds row numbers, never texts."""

    set: str
    row: int = Field(description="Row number in that set, counted from 1.")
    forget_set: str
    forget_row: int = Field(description="Row number in the forget set, counted from 1.")
    evidence: Literal["answer", "probability"] = Field(
        description="answer: the model's own answer has the fact's keywords. probability: the row states the fact, the "
        "model was not asked about it, and the row's tokens have a mean probability of at least 0.9."
    )


class Report(ReportModel):
    """The complete report of one job."""

    schema_version: Literal["2"] = "2"
    job_id: str | None = None
    spec: JobSpec
    spec_sha256: str
    template_date: date | None = Field(
        None, description="Date that the chat template wrote as the current date; absent if it writes none."
    )
    model: ModelFacts
    data: tuple[DatasetFacts, ...]
    generated_retain: GeneratedRetainFacts | None = Field(
        None, description="How the base model made the retain set; absent if one was given, or none was needed."
    )
    models: dict[str, ModelMeasurements] = Field(
        description="Model -> its measurements: base, unlearned (or finetuned, evaluated), retrained, ..."
    )
    retrained: RetrainedModelFacts | None = Field(None, description="The retrained model, if there is one.")
    attacks: tuple[AttackResult, ...] = ()
    trials: tuple[TrialResult, ...] = Field((), description="Trainings of a search or an ensemble, in order.")
    examples: tuple[AnswerSample, ...]
    criteria: tuple[CriterionResult, ...]
    conflicts: tuple[SetConflicts, ...] = Field(
        (), description="Rows of other sets that state, or ask for, facts of a forget set, by pair of sets."
    )
    recitals: tuple[Recital, ...] = Field(
        (),
        description="Rows on which the judged model still states facts of a forget set, if no criterion bounds that. "
        "One such row makes the verdict `failed`.",
    )
    verdict: Verdict
    verdict_reason: str = Field(description="The verdict in a sentence. It claims no more than was measured.")
    run: RunFacts
    export: ExportFacts | None = Field(None, description="The written model; absent in an evaluation.")
    versions: dict[str, str] = Field(description="Package -> version that made this report.")
    caveats: tuple[str, ...] = Field(description="What was not measured, and what the numbers cannot show.")
