"""Scores packed examples: log-probabilities at the supervised positions only.

Shapes of the engine: B sequences (examples), T tokens of a pack, P supervised positions, V vocabulary size, D hidden
size; W tokens of the longest row of a padded call. A name ends in its shape: `logp_P`, `logits_PV`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from soul_core.data.packing import PackedBatch
from soul_core.models.forward_calls import compute_logits, make_forward_calls, restore_order, select_positions


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of B sequences. Differentiable if the forward pass was."""

    logits_PV: torch.Tensor  # float32
    labels_P: torch.Tensor
    logp_P: torch.Tensor  # log-probability of each label
    sequence_P: torch.Tensor  # 0..B-1
    num_sequences: int
    hidden_PD: torch.Tensor | None = None  # float32; output of the requested layer
    head_input_PD: torch.Tensor | None = None  # input of the vocabulary projection, if requested

    @property
    def sequence_logp_B(self) -> torch.Tensor:
        """Log-probability of each complete answer: the SUM over its tokens, in nats."""
        return self.logp_P.new_zeros(self.num_sequences).index_add(0, self.sequence_P, self.logp_P)

    @property
    def length_B(self) -> torch.Tensor:
        """Supervised tokens of each sequence."""
        return torch.bincount(self.sequence_P, minlength=self.num_sequences)

    def select(self, sequences: list[int]) -> "Scores":
        """Return the scores of some sequences, renumbered from 0 in the order given."""
        place_B = torch.full((self.num_sequences,), -1, dtype=torch.long, device=self.sequence_P.device)
        place_B[torch.tensor(sequences, dtype=torch.long, device=place_B.device)] = torch.arange(
            len(sequences), device=place_B.device
        )
        renumbered_P = place_B[self.sequence_P]
        order_P = torch.argsort(renumbered_P, stable=True)  # the others, at -1, come first
        order_P = order_P[(renumbered_P < 0).sum() :]
        return Scores(
            self.logits_PV[order_P],
            self.labels_P[order_P],
            self.logp_P[order_P],
            renumbered_P[order_P],
            len(sequences),
            None if self.hidden_PD is None else self.hidden_PD[order_P],
            None if self.head_input_PD is None else self.head_input_PD[order_P],
        )


def score(
    model: PreTrainedModel, packed: PackedBatch, *, layer: torch.nn.Module | None = None, with_head_input: bool = False
) -> Scores:
    """Score a pack in one packed call or in padded ones, by the model's capabilities.

    The vocabulary projection inside the model computes the P supervised positions only, so all that an architecture
    does to its logits (a softcap, a scale) is included.

    Args:
        layer: The scores include its output at these positions.
        with_head_input: The scores include the input of the vocabulary projection.
    """
    calls = make_forward_calls(model, packed)
    with (
        _record_outputs(layer) as hidden,
        _record_inputs(model.get_output_embeddings() if with_head_input else None) as last,
    ):
        logits_PV = restore_order(calls, [compute_logits(model, call) for call in calls])
    logits_PV = logits_PV.float()  # softmax over a large vocabulary in bfloat16 loses the tail
    return Scores(
        logits_PV=logits_PV,
        labels_P=packed.labels_P,
        logp_P=-functional.cross_entropy(logits_PV, packed.labels_P, reduction="none"),
        sequence_P=packed.sequence_P,
        num_sequences=packed.num_sequences,
        hidden_PD=select_positions(calls, hidden).float() if layer is not None else None,
        head_input_PD=restore_order(calls, [inputs[0] for inputs in last]) if with_head_input else None,
    )


@contextmanager
def _record_outputs(layer: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Record the output of a layer in each call, (B, W, D)."""
    recorded: list[torch.Tensor] = []
    if layer is None:
        yield recorded
        return

    def record(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
        recorded.append(output[0] if isinstance(output, tuple) else output)

    hook = layer.register_forward_hook(record)
    try:
        yield recorded
    finally:
        hook.remove()


@contextmanager
def _record_inputs(layer: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Record the input of a layer in each call."""
    recorded: list[torch.Tensor] = []
    if layer is None:
        yield recorded
        return

    def record(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        recorded.append(inputs[0])

    hook = layer.register_forward_pre_hook(record)
    try:
        yield recorded
    finally:
        hook.remove()
