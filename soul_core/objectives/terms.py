"""What a forget or retain term is given, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from soul_core.models.scoring import Scores

#: The examples a term reads: forget answers, refusals and other answers to the forget prompts, retain answers.
ExampleGroup = Literal["forget", "refusal", "alternate", "retain"]

#: Numbers of the base model: log-probability of whole answers, logits at the supervised positions, hidden states there
#: at the layer of the spec.
BaseScoreKind = Literal["sequence_logp", "logits", "hidden"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sizes of a group over the whole step, all micro-batches together: what means divide by."""

    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class GroupBaseScores:
    """The base model's numbers for the same sequences, computed once before training."""

    sequence_logp_B: torch.Tensor | None = None
    logits_PV: torch.Tensor | None = None
    hidden_PD: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class TermInputs:
    """One micro-batch. A term returns its SUM over it, divided by the step's totals: the micro-batches' values add up
    to the step's loss, so accumulation changes nothing.
    """

    scores: Mapping[ExampleGroup, Scores]
    totals: Mapping[ExampleGroup, Totals]
    base_scores: Mapping[ExampleGroup, GroupBaseScores]
    seed: int = 0  # the run's


def token_mean(value_P: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Return the micro-batch's share of the step's mean over supervised tokens."""
    return value_P.sum() / totals.num_tokens


def sequence_mean(value_B: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Return the micro-batch's share of the step's mean over sequences."""
    return value_B.sum() / totals.num_sequences
