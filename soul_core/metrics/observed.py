"""Results of inference of one model on one data set: the input of every row metric. Numbers and text, no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Tokens that the model generates after the beginning of a text (`MetricEntry.prefix_tokens` long).
MAX_CONTINUATION_TOKENS = 128


@dataclass(frozen=True)
class TokenScores:
    """The scores of one row's answer, token by token, given the prompt and the answer so far."""

    row: int
    nll: tuple[float, ...]
    """Negative log-likelihood of each answer token, in nats."""
    hits: tuple[bool, ...]
    """Whether the token is the model's most likely one."""
    num_end: int
    """Tokens at the end that close the turn and are not content."""
    standardized_nll: tuple[float, ...] = ()
    """(NLL - its mean) / its deviation over the vocabulary at each token; empty if no metric needs it."""

    @property
    def content_hits(self) -> tuple[bool, ...]:
        return self.hits[: len(self.hits) - self.num_end]

    @property
    def mean_nll(self) -> float:
        return sum(self.nll) / len(self.nll)


@dataclass(frozen=True)
class AlternativeLosses:
    """Mean NLL per token of other answers to a row's prompt, end of answer included."""

    paraphrase: float | None
    """The right answer in other words; None where the row has none."""
    wrong: tuple[float, ...]


@dataclass(frozen=True)
class GeneratedAnswer:
    """The answer that the model generates to one row's prompt, and the answer that the data set expects."""

    row: int
    prompt: str
    """The text of all turns of the prompt."""
    expected: str
    generated: str
    preamble: str = ""
    """What the model generated before its answer: a thinking block, a channel. No metric reads it."""


@dataclass(frozen=True)
class SampledAnswers:
    """The answers that the model samples to one row's prompt, and the answer that the data set expects."""

    row: int
    prompt: str
    """The text of all turns of the prompt."""
    expected: str
    texts: Mapping[float, tuple[str, ...]]
    """Temperature -> all that the model generated in each sample: what is before an answer can leak too."""


@dataclass(frozen=True)
class Continuation:
    """The model's continuation of a text's beginning and the text's own, each at most MAX_CONTINUATION_TOKENS long."""

    row: int
    expected: str
    generated: str


@dataclass(frozen=True)
class InferenceResult:
    """One data set under one model. Every tuple has one entry per row, or is empty if no metric needs it.

    An entry is None for a row that has none: `answers` and `few_shot_answers` of rows without a prompt, `samples` also
    of rows that were not selected, `alternatives` of rows without wrong answers, `continuations` of rows with a prompt
    or too short for the beginning.
    """

    rows: tuple[int, ...]
    set_name: str = ""
    refusals: tuple[str, ...] = ()
    """The job's own texts of refusals."""
    expected_texts: tuple[str, ...] = ()
    scores: tuple[TokenScores, ...] = ()
    alternatives: tuple[AlternativeLosses | None, ...] = ()
    answers: tuple[GeneratedAnswer | None, ...] = ()
    samples: tuple[SampledAnswers | None, ...] = ()
    leak_k: int = 1
    """Tries of `leak_at_k`, at most as many as samples of a row at each temperature."""
    few_shot_answers: tuple[GeneratedAnswer | None, ...] = ()
    """The model's own answers after few-shot examples of other questions."""
    continuations: Mapping[int, tuple[Continuation | None, ...]] = field(default_factory=dict)
    """Tokens of the beginning -> continuations."""
    gradient_norms: tuple[float, ...] = ()
