"""What each metric is, what it needs and which way is good: the part of the metric table that needs no torch.

`GET /v1/methods` and the report page read it; `soul_core.metrics.METRICS` holds one function for each entry.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Need = Literal["likelihoods", "answers", "text"]
Aggregate = Literal["mean", "geometric_mean"]

#: What a need asks of a data set, in the words used when it is missing.
NEEDS: dict[Need, str] = {
    "likelihoods": "one forward pass over each row",
    "answers": "rows with a prompt, which the model then answers by itself",
    "text": "rows of plain text, without prompts",
}


class MetricEntry(BaseModel):
    """One metric as users see it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    description: str
    unit: str
    low: float = Field(description="Smallest possible value.")
    high: float | None = Field(description="Largest possible value; none: unbounded.")
    better_on_forget: Literal["lower", "higher"]
    better_elsewhere: Literal["lower", "higher"]
    needs: tuple[Need, ...]
    aggregate: Aggregate = Field("mean", description="How the values of single rows become the value of a set.")
    source: str


_ENTRIES = (
    MetricEntry(
        name="probability",
        title="Answer probability",
        description="Probability a token of the expected answer has on (geometric) average: exp(-mean NLL), "
        "end of answer included.",
        unit="probability",
        low=0,
        high=1,
        better_on_forget="lower",
        better_elsewhere="higher",
        needs=("likelihoods",),
        source="TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="rouge_l",
        title="ROUGE-L recall",
        description="Share of the expected answer's words that the model's own greedy answer holds in the same order.",
        unit="share",
        low=0,
        high=1,
        better_on_forget="lower",
        better_elsewhere="higher",
        needs=("answers",),
        source="Lin 2004; TOFU, arXiv:2401.06121, section 2.2.1",
    ),
    MetricEntry(
        name="keyword_recall",
        title="Keyword recall",
        description="Share of the expected answer's words, those in the question and mere grammar left out, that the "
        "model's own greedy answer holds.",
        unit="share",
        low=0,
        high=1,
        better_on_forget="lower",
        better_elsewhere="higher",
        needs=("answers",),
        source="SOUL's own: docs/evaluation.md",
    ),
    MetricEntry(
        name="exact_memorisation",
        title="Exact memorisation",
        description="Share of the answer's tokens that are the model's first choice, given the answer so far.",
        unit="share",
        low=0,
        high=1,
        better_on_forget="lower",
        better_elsewhere="higher",
        needs=("likelihoods",),
        source="Tirumala et al. 2022, arXiv:2205.10770",
    ),
    MetricEntry(
        name="extraction_strength",
        title="Extraction strength",
        description="Share of the answer that the model completes exactly when given the rest as a beginning: "
        "1 - (shortest such beginning / answer).",
        unit="share",
        low=0,
        high=1,
        better_on_forget="lower",
        better_elsewhere="higher",
        needs=("likelihoods",),
        source="Carlini et al. 2021, arXiv:2012.07805; Wang et al. 2025, arXiv:2406.13356",
    ),
    MetricEntry(
        name="perplexity",
        title="Perplexity",
        description="Perplexity of plain text: exp of the NLL per token over the whole set.",
        unit="perplexity",
        low=1,
        high=None,
        better_on_forget="higher",
        better_elsewhere="lower",
        needs=("likelihoods", "text"),
        aggregate="geometric_mean",
        source="Jelinek et al. 1977",
    ),
)

CATALOGUE: dict[str, MetricEntry] = {entry.name: entry for entry in _ENTRIES}


def number(value: float) -> str:
    """Write a metric's value for people: three significant digits, an exponent only where it cannot be helped."""
    size = abs(value)
    if size == 0 or 1e-4 <= size < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1 < size < 1e9 else f"{value:.1e}"
