"""Packed examples through the model -> log-probabilities at the supervised positions, and only there.

Shape legend of the engine: B sequences (examples), T tokens of a pack, P supervised positions, V vocabulary,
D hidden size. A name ends in its shape: `logp_P`, `logits_PV`.
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
    """What terms see of B sequences. Differentiable where the forward pass was."""

    logits_PV: torch.Tensor  # float32
    labels_P: torch.Tensor
    logp_P: torch.Tensor  # log-probability of each label
    sequence_P: torch.Tensor  # 0..B-1
    num_sequences: int
    hidden_PD: torch.Tensor | None = None  # float32; output of the layer that was asked for
    head_input_PD: torch.Tensor | None = None  # what went into the vocabulary projection, where it was asked for

    @property
    def sequence_logp_B(self) -> torch.Tensor:
        """Log-probability of each whole answer: the SUM over its tokens."""
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
    """Score a pack, in one packed call or in padded ones: what the model can take (`capabilities`).

    The vocabulary projection happens at the P supervised positions only, inside the model, so whatever an architecture
    does to its logits (a softcap, a scale) is done. The output of `layer` is kept there too, and with `with_last` what
    goes into the projection.
    """
    calls = make_forward_calls(model, packed)
    with _outputs_of(layer) as hidden, _inputs_of(model.get_output_embeddings() if with_head_input else None) as last:
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
def _outputs_of(layer: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Catch what a layer gives out in each call, (B, W, D)."""
    caught: list[torch.Tensor] = []
    if layer is None:
        yield caught
        return

    def catch(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    hook = layer.register_forward_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()


@contextmanager
def _inputs_of(layer: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Catch what goes into a layer in each call."""
    caught: list[torch.Tensor] = []
    if layer is None:
        yield caught
        return

    def catch(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        caught.append(inputs[0])

    hook = layer.register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        hook.remove()
