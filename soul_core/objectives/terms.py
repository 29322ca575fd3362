"""What a forget or retain term receives, what it returns, and what its line in the table holds.

Shapes: B sequences of a micro-batch, P supervised positions, D hidden size, V vocabulary size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from soul_core.data.encoding import Example
from soul_core.events import Listener
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import Scores

#: The examples a term reads: forget answers; refusals, other answers and what is said afterwards to the forget prompts;
#: retain answers. No term reads guard rows: the curvature and the learning rate may depend on them.
ExampleGroup = Literal["forget", "refusal", "alternate", "after", "retain", "guard"]
#: The parts of the total loss.
TermPart = Literal["forget", "after", "retain"]

#: Base scores a term reads: log-probability of each answer, logits at the supervised positions, hidden states there at
#: the steered layer.
BaseScoreKind = Literal["sequence_logp", "logits", "hidden"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sizes of a group in a step, over all its micro-batches: the denominators of means."""

    num_sequences: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class GroupBaseScores:
    """Base scores (π_ref) of the sequences of a micro-batch, computed once before training."""

    sequence_logp_B: torch.Tensor | None = None
    logits_PV: torch.Tensor | None = None
    hidden_PD: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class TermInputs:
    """One micro-batch. A term returns its SUM over the micro-batch divided by the step's totals, so the values of the
    micro-batches add up to the step's loss and accumulation changes nothing.
    """

    scores: Mapping[ExampleGroup, Scores]
    totals: Mapping[ExampleGroup, Totals]
    base_scores: Mapping[ExampleGroup, GroupBaseScores]
    seed: int = 0  # the run's


@dataclass(frozen=True, slots=True)
class ExampleContext:
    """What a term may use to make its own examples, or to check that it can. The model is still the base model."""

    loaded: LoadedModel
    seed: int
    max_tokens: int  # of an example, prompt and answer together


class ExampleMaker(Protocol):
    """Makes one example per forget example, in their order."""

    def __call__(
        self, forget: Sequence[Example], spec: Any, context: ExampleContext, *, folder: Path, listener: Listener
    ) -> list[Example]:
        """Return the examples. What took time to make is stored in `folder` for a resumed run."""


@dataclass(frozen=True, slots=True)
class DualSettings:
    """A dual variable that multiplies the retain term's weight: lambda <- max(0, lambda + step * (loss - bound))."""

    start: float
    step: float  # per nat of violation
    slack: float  # nats per token by which the retain loss may exceed the base model's
    num_warmup_steps: int


@dataclass(frozen=True, slots=True)
class Term:
    """One line of the table. `spec` in the signatures below is the term's own spec class.

    Sequences of one row in several `groups` (an answer and its refusal) share a forward pass.
    """

    loss_fn: Callable[[TermInputs, Any], torch.Tensor]
    groups: tuple[ExampleGroup, ...]
    base_scores: Mapping[ExampleGroup, BaseScoreKind] = field(default_factory=dict)
    #: Makes the examples of groups that are not a data set.
    make_examples: Mapping[ExampleGroup, ExampleMaker] = field(default_factory=dict)
    #: (forget examples with a prompt, spec, context) -> one line for each row that the term cannot use.
    check: Callable[[Sequence[Example], Any, ExampleContext], Iterator[str]] | None = None
    #: (spec, number of layers) -> index of the layer whose hidden states the job's terms read.
    layer: Callable[[Any, int], int] | None = None
    #: spec -> the dual variable of the retain term's weight.
    dual: Callable[[Any], DualSettings] | None = None
    #: Whether the term is zero for the base model, as a distance from it is.
    is_zero_at_base: bool = False


def token_mean(value_P: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Return the micro-batch's part of the step's mean over supervised tokens."""
    return value_P.sum() / totals.num_tokens


def sequence_mean(value_B: torch.Tensor, totals: Totals) -> torch.Tensor:
    """Return the micro-batch's part of the step's mean over sequences."""
    return value_B.sum() / totals.num_sequences
