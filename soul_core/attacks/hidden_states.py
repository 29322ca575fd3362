"""Hooks by which attacks read hidden states and the final norm, for any decoder architecture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from soul_core.attacks.context import AttackNotPossible
from soul_core.models.layers import find_decoder_layers


class HiddenStateRecorder:
    """While open, records the outputs of chosen layers (layer -> (B, W, D) of each call) and finds the final norm.

    The norm is the last module without submodules whose input is the output tensor of the last layer. If an
    architecture computes anything else after its layers, a comparison of logits shows it.
    """

    def __init__(self, model: PreTrainedModel, layer_numbers: Sequence[int]) -> None:
        self._model, self._layers, self._layer_numbers = model, find_decoder_layers(model), layer_numbers
        self.hidden_states: dict[int, list[torch.Tensor]] = {number: [] for number in layer_numbers}
        self._last_output: torch.Tensor | None = None
        self._norm: torch.nn.Module | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        inside = {id(module) for module in self._layers[-1].modules()}
        for number, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._make_layer_hook(number)))
        for module in self._model.modules():
            if id(module) not in inside and not list(module.children()):
                self._hooks.append(module.register_forward_hook(self._find_norm))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._last_output = None

    @property
    def final_norm(self) -> torch.nn.Module:
        """The final norm of the last forward pass. Raises AttackNotPossible if none was found."""
        if self._norm is None:
            raise AttackNotPossible(f"{type(self._model).__name__} has no norm after its last layer that can be found")
        return self._norm

    def _make_layer_hook(self, number: int) -> Any:
        def hook(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
            hidden_BWD = output[0] if isinstance(output, tuple) else output
            if number in self._layer_numbers:
                self.hidden_states[number].append(hidden_BWD)
            if number == len(self._layers) - 1:
                self._last_output = hidden_BWD

        return hook

    def _find_norm(self, module: torch.nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        if self._last_output is not None and inputs and inputs[0] is self._last_output:
            self._norm = module


@contextmanager
def require_grad_only(model: PreTrainedModel, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Require gradients of these parameters only, so that no graph is built below them."""
    selected = {id(parameter) for parameter in parameters}
    requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in requires_grad:
            parameter.requires_grad_(id(parameter) in selected)
        yield
    finally:
        for parameter, required in requires_grad:
            parameter.requires_grad_(required)
