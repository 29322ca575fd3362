"""The numbers of a report: metrics of each model, under each attack, and sample answers. Torch-free."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: Lower and upper end of a confidence interval.
Interval = tuple[float, float]


class ReportModel(BaseModel):
    """Base of all parts of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class MetricValue(ReportModel):
    """One metric of one model on one data set. If `value` is absent, `absent_reason` says why."""

    value: float | None = Field(description="The aggregate over all rows, in the metric's unit.")
    interval: Interval | None = Field(
        None,
        description="Bootstrap confidence interval of the aggregate: BCa for a mean of rows, percentile where BCa is "
        "not defined (all rows have the same value) and for metrics that are not a mean of rows.",
    )
    count: int = Field(0, description="Number of examples in the aggregate.")
    per_example: tuple[float | None, ...] | None = Field(None, description="One value per row, in the set's order.")
    weights: tuple[float, ...] | None = Field(
        None, description="Weight of each row in the aggregate; absent: all rows weigh the same."
    )
    absent_reason: str | None = Field(None, description="Why there is no value.")


SetMetrics = dict[str, MetricValue]  # metric -> value


class RowDigestKey(ReportModel):
    """The key of the digests of rows."""

    id: str = Field(description="Identifies the key: digests made with keys of the same id can be compared.")
    key: str | None = Field(
        None,
        description="The key itself, in hex, in reports that users make on their own machines. Absent in reports of a "
        "service, which keeps the key secret so that rows cannot be guessed from their digests.",
    )


class TemperatureLeaks(ReportModel):
    """What the samples at one temperature reveal, over the sampled rows of a forget set."""

    temperature: float
    leak_at: dict[int, float] = Field(
        description="k -> mean over rows of the chance that at least one of k samples states the fact (leak@k)."
    )
    rouge_l_at_k: float | None = Field(
        description="Mean over rows of the expected largest ROUGE-L recall of k samples."
    )
    leaking_samples: tuple[int | None, ...] = Field(
        description="Samples of each row that state the fact, in the set's order; absent: the row was not sampled, or "
        "its answer has no keyword."
    )


class LeakFacts(ReportModel):
    """What sampled answers reveal of one forget set, at each temperature."""

    num_samples: int = Field(description="Samples of each row at each temperature.")
    k: int = Field(description="Tries of leak_at_k.")
    temperatures: tuple[TemperatureLeaks, ...]
    worst_row: int = Field(
        description="Number of the row of which most samples state the fact; if none does, the row with the largest "
        "ROUGE-L recall."
    )
    worst_row_leaks: int = Field(description="Samples of that row that state the fact, over all temperatures.")


class ModelMeasurements(ReportModel):
    """Everything measured on one model: data set -> metric -> value."""

    sets: dict[str, SetMetrics] = Field(description="Data set -> metric -> value.")
    rows: dict[str, tuple[int, ...]] = Field({}, description="Data set -> row number of each value in per_example.")
    leaks: dict[str, LeakFacts] = Field({}, description="Forget set -> what sampled answers reveal of it.")
    digests: dict[str, tuple[str, ...]] = Field(
        {},
        description="Data set -> keyed digest of each row's content, in the order of `rows`. Rows of a retrained "
        "model's log are matched by digest, not by position. A row with paraphrased or wrong answers has a second "
        "digest of those after a dot. Empty: a report of an earlier version, or a log of another project.",
    )
    row_key: RowDigestKey | None = Field(None, description="The key of `digests`.")


class AnswerSample(ReportModel):
    """One question with the answer of each model."""

    set: str = Field(description="Data set of the question.")
    row: int = Field(description="Row number in the data set, counted from 1.")
    prompt: str = Field(description="The question in the data set.")
    expected: str = Field(description="The answer in the data set.")
    answers: dict[str, str] = Field(description="Model (base, unlearned, ...) -> its greedy answer.")
    leaks: dict[str, str] = Field(
        {}, description="Model -> one of its sampled answers that states the fact; absent: none of them does."
    )
    preambles: dict[str, str] = Field(
        {},
        description="Model -> what it wrote before the answer (a thinking block, a channel); no metric reads it.",
    )


class FlaggedRow(ReportModel):
    """One row that the audit for poisoned forget rows lists, by its number, without its text."""

    set: str = Field(description="Data set of the row.")
    row: int = Field(description="Row number in the data set, counted from 1.")
    value: float = Field(description="The number by which the row was selected; the finding's description explains it.")


class Finding(ReportModel):
    """A list of rows that an attack selected."""

    title: str
    description: str = Field(description="How the rows were selected.")
    rows: tuple[FlaggedRow, ...]


class AttackResult(ReportModel):
    """One attack: what each model reveals under it."""

    label: str = Field(description="The attack's name in criteria: relearn, quantize_4bit, prompting, ...")
    settings: dict[str, Any] = Field(description="The attack as the spec defines it.")
    baseline: dict[str, dict[str, SetMetrics]] = Field(
        description="Model -> data set -> metrics on the same rows without the attack."
    )
    attacked: dict[str, dict[str, SetMetrics]] = Field(
        description="Model -> data set -> metrics under the attack; with several variants, of the worst case per row."
    )
    gains: dict[str, dict[str, SetMetrics]] = Field(
        {},
        description="Model -> data set -> what the attack brings back: the value under it minus the value before, mean "
        "of the rows' differences, without the values of rows. Only metrics that are a mean of rows have one.",
    )
    rows: dict[str, tuple[int, ...]] = Field({}, description="Data set -> row number of each value in per_example.")
    variants: dict[str, dict[str, SetMetrics]] = Field(
        {}, description="Way of asking, or layer -> model -> metrics on the forget set."
    )
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = Field((), description="What a reader must know to judge the attack.")
    seconds: float = Field(0.0, description="How long the attack took, on all models.")
    absent_reason: str | None = Field(None, description="Why the attack was not run.")
