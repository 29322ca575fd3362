"""The parts of a decoder that attacks look into, found by what they are and do, not by an architecture's names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from soul_core.attacks.context import AttackNotPossible
from soul_core.models.layers import find_decoder_layers


class HiddenStateRecorder:
    """While open, keeps what chosen layers give (layer -> (B, W, D) of each call) and finds the final norm.

    The norm is the last module, of those without parts, whose input is the very tensor that the last layer gave:
    whatever else an architecture does behind its layers shows when its logits are compared.
    """

    def __init__(self, model: PreTrainedModel, layer_numbers: Sequence[int]) -> None:
        self._model, self._layers, self._chosen = model, find_decoder_layers(model), layer_numbers
        self.hidden_states: dict[int, list[torch.Tensor]] = {number: [] for number in layer_numbers}
        self._last: torch.Tensor | None = None
        self._norm: torch.nn.Module | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        inside = {id(module) for module in self._layers[-1].modules()}
        for number, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._keep(number)))
        for module in self._model.modules():
            if id(module) not in inside and not list(module.children()):
                self._hooks.append(module.register_forward_hook(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._last = None

    @property
    def final_norm(self) -> torch.nn.Module:
        """Return the final norm of the last forward pass. Raises NotPossibleError where there was none."""
        if self._norm is None:
            raise AttackNotPossible(f"{type(self._model).__name__} has no norm behind its last layer that can be found")
        return self._norm

    def _keep(self, number: int) -> Any:
        def hook(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> None:
            hidden_BWD = output[0] if isinstance(output, tuple) else output
            if number in self._chosen:
                self.hidden_states[number].append(hidden_BWD)
            if number == len(self._layers) - 1:
                self._last = hidden_BWD

        return hook

    def _note(self, module: torch.nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        if self._last is not None and inputs and inputs[0] is self._last:
            self._norm = module


@contextmanager
def require_grad_only(model: PreTrainedModel, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Let gradients reach these parameters alone, so that no graph is built below them."""
    chosen = {id(parameter) for parameter in parameters}
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in wants:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)
