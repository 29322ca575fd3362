"""Latent perturbation: forget gradients taken where hidden states were changed so that the model tells the answers.

An inner ascent searches, for each position of a few layers, a small change of the layer's output that raises the
likelihood of the forget answers, as relearning would. The forget term is then computed with that change in place, so
that the weights learn to withhold the answers even when the states before them have moved towards them.
Source: Sheshadri et al. 2024, arXiv:2407.15549 (targeted latent adversarial training: projected gradient ascent on the
residual stream, bounded in L2 per position); Casper et al. 2024, arXiv:2403.05030.
Differs from both: the bound is a fraction of the state's own norm instead of a number for each model; the change starts
at zero instead of at random, so that it needs no random state; the step is 2 / steps of the bound; the first position
of a text is not changed, because its state depends on no text and is an outlier in size.
Shapes: B rows of a call, W tokens of the longest row, D hidden size, C positions that predict answer tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Module
from transformers import PreTrainedModel

from soul_core.data.packing import PackedBatch
from soul_core.errors import BadSpec
from soul_core.models.forward_calls import ForwardCall, make_forward_calls
from soul_core.models.layers import find_decoder_layers
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec.wrappers import LatentPerturbation


class PerturbedLayer:
    """The changes of one layer's output, one tensor (B, W, D) for each forward call of a pack."""

    def __init__(self, layer: Module, radius: float) -> None:
        self.layer, self._radius = layer, radius
        self.deltas: list[torch.Tensor] = []
        self._bounds: list[torch.Tensor] = []  # (B, W, 1): the largest norm of a change
        self._call = 0

    def begin_pass(self) -> None:
        """Start again with the first forward call."""
        self._call = 0

    def add_delta(self, _: Module, __: tuple[Any, ...], output: Any) -> Any:
        """Add this call's change to the layer's output (a forward hook); at first it is zero."""
        hidden = output[0] if isinstance(output, tuple) else output
        if self._call == len(self.deltas):
            self._bounds.append(self._radius * hidden.detach().float().norm(dim=-1, keepdim=True))
            self.deltas.append(torch.zeros_like(hidden, dtype=torch.float32, requires_grad=True))
        hidden = hidden + self.deltas[self._call].to(hidden.dtype)
        self._call += 1
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def ascend(self, gradients: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], step: float) -> None:
        """Move each change by `step` bounds along its gradient, and back into the bound."""
        for index, (gradient, mask_BW) in enumerate(zip(gradients, masks, strict=True)):
            bound, delta = self._bounds[index], self.deltas[index].detach()
            delta = delta + step * bound * _normalize(gradient) * mask_BW[..., None]
            norm = delta.norm(dim=-1, keepdim=True)
            delta = delta * (bound / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1)
            self.deltas[index] = delta.requires_grad_()


def find_worst_perturbation(
    loaded: LoadedModel, packed: PackedBatch, groups: Sequence[ExampleGroup], spec: LatentPerturbation
) -> list[PerturbedLayer]:
    """Return the change of hidden states that raises the forget answers' likelihood most, as far as the ascent finds.

    Likelihoods of other answers (refusals, alternates) are lowered: they are what the model should say instead.
    No gradient of a weight is touched. Memory: the activations of one forward pass, and three numbers per changed
    state (change, gradient, bound).

    Args:
        packed: Examples of the forget term.
        groups: The group of each example.
    """
    layers = [PerturbedLayer(layer, spec.radius) for layer in find_perturbed_layers(loaded.model, spec)]
    masks = [_find_positions(call, spec.positions) for call in make_forward_calls(loaded.model, packed)]
    sign_B = torch.tensor([1.0 if group == "forget" else -1.0 for group in groups], device=loaded.device)
    for _ in range(spec.steps):
        with loaded.autocast(), perturb_outputs(layers):
            objective = (sign_B * score(loaded.model, packed).sequence_logp_B).sum()
        gradients = torch.autograd.grad(objective, [delta for layer in layers for delta in layer.deltas])
        for number, layer in enumerate(layers):
            part = gradients[number * len(masks) : (number + 1) * len(masks)]
            layer.ascend(part, masks, step=2 / spec.steps)
    for layer in layers:
        layer.deltas = [delta.detach() for delta in layer.deltas]
    return layers


@contextmanager
def perturb_outputs(layers: Sequence[PerturbedLayer]) -> Iterator[None]:
    """Add the changes to the layers' outputs in the forward calls of one pack."""
    hooks = []
    try:
        for layer in layers:
            layer.begin_pass()
            hooks.append(layer.layer.register_forward_hook(layer.add_delta))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def find_perturbed_layers(model: PreTrainedModel, spec: LatentPerturbation) -> list[Module]:
    """Return the layers whose outputs are changed, from first to last.

    Raises:
        BadSpec: The model has fewer layers than the spec names.
        LayersNotFoundError: The model has no list of layers.
    """
    layers = find_decoder_layers(model)
    indices = spec.layers or [max(0, round(len(layers) * part / 4) - 1) for part in (1, 2, 3)]
    if max(indices) >= len(layers):
        raise BadSpec(f"latent.layers: the model has layers 0 to {len(layers) - 1}, and no layer {max(indices)}")
    return [layers[index] for index in sorted(set(indices))]


def _find_positions(call: ForwardCall, positions: str) -> torch.Tensor:
    """Return which positions of a call are changed, (B, W): not the first of a text; `prompt`: none of the answer.

    A row without a prompt (plain text) is changed everywhere.
    """
    shape = call.kwargs["input_ids"].shape
    position_BW = call.kwargs.get("position_ids")
    if position_BW is None:
        position_BW = torch.arange(shape[1], device=call.positions_C.device).expand(shape)
    is_changed_BW = position_BW > 0
    if positions == "all":
        return is_changed_BW
    is_answer = torch.zeros(shape, dtype=torch.bool, device=is_changed_BW.device).flatten()
    has_prompt_C = _find_has_prompt(call, position_BW.flatten())
    is_answer[(call.positions_C + 1)[has_prompt_C]] = True
    return is_changed_BW & ~is_answer.view(shape)


def _find_has_prompt(call: ForwardCall, position: torch.Tensor) -> torch.Tensor:
    """Return for each answer position, (C), whether its text has a prompt of more than the first token."""
    start_C = call.positions_C - position[call.positions_C]  # where its text begins
    begins_answer_C = call.positions_C == start_C
    return ~torch.isin(start_C, start_C[begins_answer_C])


def _normalize(gradient: torch.Tensor) -> torch.Tensor:
    norm = gradient.norm(dim=-1, keepdim=True)
    return gradient / norm.clamp(min=torch.finfo(norm.dtype).tiny)
