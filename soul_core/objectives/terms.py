"""What a forget or retain term is given, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from soul_core.scoring import Scores

#: The examples a term reads: forget answers, refusals to the forget prompts, retain answers.
Group = Literal["forget", "refusal", "retain"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sizes of a group over the whole step, all micro-batches together: what means divide by."""

    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Reference:
    """The base model's numbers for the same sequences, computed once before training."""

    sequence_logp_B: torch.Tensor | None = None
    logits_PV: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class TermInputs:
    """One micro-batch. A term returns its SUM over it, divided by the step's totals: the micro-batches' values add up
    to the step's loss, so accumulation changes nothing.
    """

    scores: Mapping[Group, Scores]
    totals: Mapping[Group, Totals]
    reference: Mapping[Group, Reference]


def token_mean(logp_P: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Return the micro-batch's share of the step's mean log-probability per supervised token."""
    return logp_P.sum() / totals.num_tokens
