"""What was observed of one model on one data set: the input of every metric. Plain numbers and text, no tensors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenScores:
    """One row's answer under the model, token by token, given the prompt and the answer so far."""

    row: int
    nll: tuple[float, ...]
    """Negative log-likelihood of each answer token, in nats."""
    hits: tuple[bool, ...]
    """Whether the token is the model's most likely one."""
    ends: bool
    """The last token is the end-of-answer marker, which is no content."""

    @property
    def content_hits(self) -> tuple[bool, ...]:
        return self.hits[:-1] if self.ends else self.hits


@dataclass(frozen=True)
class OwnAnswer:
    """One row's question as the model answers it by itself, beside the answer the data set expects."""

    row: int
    asked: str
    """All that the prompt says."""
    expected: str
    given: str


@dataclass(frozen=True)
class Observed:
    """One data set under one model. `answers` holds None for rows without a prompt."""

    rows: tuple[int, ...]
    scores: tuple[TokenScores, ...] = ()
    answers: tuple[OwnAnswer | None, ...] = ()
