"""What was observed of one model on one data set: the input of every row metric. Plain numbers and text, no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Tokens that the model writes after the beginning of a text (`MetricEntry.prefix_tokens` long).
MAX_CONTINUATION_TOKENS = 128


@dataclass(frozen=True)
class TokenScores:
    """One row's answer under the model, token by token, given the prompt and the answer so far."""

    row: int
    nll: tuple[float, ...]
    """Negative log-likelihood of each answer token, in nats."""
    hits: tuple[bool, ...]
    """Whether the token is the model's most likely one."""
    num_end: int
    """Tokens at the end that end the turn and are not content."""
    standardized_nll: tuple[float, ...] = ()
    """(NLL - its mean) / its deviation over the vocabulary at each token; where a metric needs the distribution."""

    @property
    def content_hits(self) -> tuple[bool, ...]:
        return self.hits[: len(self.hits) - self.num_end]

    @property
    def mean_nll(self) -> float:
        return sum(self.nll) / len(self.nll)


@dataclass(frozen=True)
class AlternativeLosses:
    """Mean NLL a token of other answers to a row's prompt, end of answer included."""

    paraphrase: float | None
    """The right answer in other words; None where the row has none."""
    wrong: tuple[float, ...]


@dataclass(frozen=True)
class GeneratedAnswer:
    """One row's question as the model answers it by itself, beside the answer the data set expects."""

    row: int
    prompt: str
    """All that the prompt says."""
    expected: str
    generated: str
    preamble: str = ""
    """What the model wrote before its answer: a thinking block, a channel. No metric reads it."""


@dataclass(frozen=True)
class Continuation:
    """One text as the model continues its beginning, beside how it goes on: both at most CONTINUED_TOKENS tokens."""

    row: int
    expected: str
    generated: str


@dataclass(frozen=True)
class InferenceResult:
    """One data set under one model. Tuples run along `rows`; one that no metric asked for is empty.

    None stands for a row that has none: `answers` and `few_shot` of rows without a prompt, `others` of rows without
    wrong answers, `continuations` of rows with a prompt or too short for the beginning.
    """

    rows: tuple[int, ...]
    set_name: str = ""
    expected_texts: tuple[str, ...] = ()
    """The expected answers."""
    scores: tuple[TokenScores, ...] = ()
    alternatives: tuple[AlternativeLosses | None, ...] = ()
    answers: tuple[GeneratedAnswer | None, ...] = ()
    few_shot_answers: tuple[GeneratedAnswer | None, ...] = ()
    """The model's own answers after worked examples of other questions."""
    continuations: Mapping[int, tuple[Continuation | None, ...]] = field(default_factory=dict)
    """Tokens of the beginning -> how the model goes on."""
    gradient_norms: tuple[float, ...] = ()
