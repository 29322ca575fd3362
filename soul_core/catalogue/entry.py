"""What is said of a metric, and what a metric may need. Torch-free; the entries are in the modules beside this one."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Need = Literal["likelihoods", "answers", "text", "perturbed", "distribution", "gradients", "few_shot", "continuations"]
Aggregate = Literal["mean", "geometric_mean", "truth_ratio_forget", "truth_ratio_kept"]
BetterDirection = Literal["lower", "higher"]
Scope = Literal["row", "model", "retrained"]

#: What a need asks of a data set, in the words used when it is missing.
NEEDS: dict[Need, str] = {
    "likelihoods": "one forward pass over each row",
    "answers": "rows with a prompt, which the model then answers by itself",
    "text": "rows of plain text, without prompts",
    "perturbed": "rows with wrong answers beside the right one (column perturbed_answer)",
    "distribution": "the probabilities of the whole vocabulary at each answer token",
    "gradients": "one backward pass a row",
    "few_shot": "rows with a prompt, which the model answers after worked examples",
    "continuations": "rows of plain text that are longer than the beginning the model is given",
}


class MetricEntry(BaseModel):
    """One metric as users see it. Unless an entry says otherwise: a share from 0 to 1 of what the model still knows,
    little of which is wanted on the forget set and much elsewhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    description: str
    unit: str = "share"
    low: float | None = Field(0, description="Smallest possible value; none: unbounded.")
    high: float | None = Field(1, description="Largest possible value; none: unbounded.")
    better_on_forget: BetterDirection = "lower"
    better_on_other_sets: BetterDirection = "higher"
    target: float | None = Field(
        None, description="What a model that never saw the forget set has; beyond it is no better. None: not known."
    )
    needs: tuple[Need, ...] = ()
    scope: Scope = Field(
        "row",
        description="row: taken on one set under one model. model: made of a model's finished row metrics. reference: "
        "made of a model's and the retrained model's.",
    )
    inputs: tuple[tuple[str, str], ...] = Field(
        (), description="(set, row metric) pairs that a metric of another scope is made of: they are measured with it."
    )
    prefix_tokens: int = Field(0, description="Tokens of a text that the model is given to continue; 0: none is.")
    aggregate: Aggregate = Field("mean", description="How the values of single rows become the value of a set.")
    aggregate_on_forget: Aggregate | None = Field(None, description="The same on the forget set, where it differs.")
    source: str

    @property
    def home_set(self) -> str | None:
        """The set that a metric of one model's, or two models', finished metrics is told of; None: any, it has rows."""
        if self.scope == "row":
            return None
        return "all" if self.name == "model_utility" else "forget"

    def get_aggregate(self, set_name: str) -> Aggregate:
        """Return how rows are aggregated on a set."""
        on_forget = self.aggregate_on_forget if set_name == "forget" else None
        return on_forget or self.aggregate
