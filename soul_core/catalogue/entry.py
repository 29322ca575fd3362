"""The description of a metric, and what a metric may need. Torch-free; the entries are in the other modules."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Need = Literal[
    "likelihoods", "answers", "samples", "text", "perturbed", "distribution", "gradients", "few_shot", "continuations"
]
Aggregate = Literal["mean", "geometric_mean", "truth_ratio_forget", "truth_ratio_kept"]
BetterDirection = Literal["lower", "higher"]
Scope = Literal["row", "model", "retrained"]

#: What a metric needs, in the words of the message when it is missing.
NEEDS: dict[Need, str] = {
    "likelihoods": "one forward pass over each row",
    "answers": "rows with a prompt, which the model answers",
    "samples": "rows of a forget set with a prompt, to which answers are sampled",
    "text": "rows of plain text, without prompts",
    "perturbed": "rows with wrong answers in addition to the right one (column perturbed_answer)",
    "distribution": "the probabilities of the whole vocabulary at each answer token",
    "gradients": "one backward pass per row",
    "few_shot": "rows with a prompt, which the model answers after few-shot examples",
    "continuations": "rows of plain text that are longer than the part that the model is given",
}


class MetricEntry(BaseModel):
    """One metric as users see it. Defaults describe a fraction from 0 to 1 of what the model knows: low values are
    better on the forget set, high values on other sets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    description: str
    unit: str = "share"
    low: float | None = Field(0, description="Smallest possible value; absent: unbounded.")
    high: float | None = Field(1, description="Largest possible value; absent: unbounded.")
    better_on_forget: BetterDirection = "lower"
    better_on_other_sets: BetterDirection = "higher"
    target: float | None = Field(
        None,
        description="Value of a model that never saw the forget set; values beyond it are not better. Absent: unknown.",
    )
    needs: tuple[Need, ...] = ()
    scope: Scope = Field(
        "row",
        description="row: measured on one data set with one model. model: computed from a model's row metrics. "
        "retrained: computed from a model's and the retrained model's row metrics.",
    )
    inputs: tuple[tuple[str, str], ...] = Field(
        (), description="(data set, row metric) pairs from which a metric of another scope is computed."
    )
    prefix_tokens: int = Field(0, description="Tokens of a text that the model continues; 0: it continues none.")
    aggregate: Aggregate = Field("mean", description="How the values of rows become the value of a data set.")
    aggregate_on_forget: Aggregate | None = Field(None, description="The same on the forget set, if it differs.")
    source: str

    @property
    def home_set(self) -> str | None:
        """The set under which a metric that is not of rows is reported; None for a metric of rows."""
        if self.scope == "row":
            return None
        return "all" if self.name == "model_utility" else "forget"

    @property
    def needs_samples(self) -> bool:
        """Whether the metric is of sampled answers, which are generated for forget sets only."""
        return "samples" in self.needs

    def describe_direction(self) -> str:
        """Return which values are better, as a sentence."""
        if self.target is not None:
            return f"A model that never saw the forget set has {self.target:g}."
        if self.home_set == "all":
            return f"A {self.better_on_forget} value is better."
        if self.needs_samples:
            return f"A {self.better_on_forget} value means more forgotten."
        on_forget = f"On the forget set a {self.better_on_forget} value means more forgotten"
        if self.home_set is not None:
            return f"{on_forget}."
        return f"{on_forget}; on other sets a {self.better_on_other_sets} value is better."

    def get_aggregate(self, set_name: str) -> Aggregate:
        """Return how rows are aggregated on a data set."""
        on_forget = self.aggregate_on_forget if set_name == "forget" else None
        return on_forget or self.aggregate
