"""The base's weights, to begin each trial with, and those of finished trials, on disk until one is chosen."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from soul_core.models.loading import Loaded
from soul_core.training.checkpoint import keep_tensors


class BaseWeights:
    """A copy of the model's parameters in the host's memory."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = loaded.model
        self._kept = {name: each.detach().cpu().clone() for name, each in loaded.model.named_parameters()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the base's weights back, bit for bit."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self._kept[name])
        self._model.zero_grad(set_to_none=True)

    def change(self, path: Path, name: str) -> torch.Tensor:
        """Return what a kept training changed in one parameter."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) - self._kept[name]

    @torch.no_grad()
    def apply(self, name: str, change: torch.Tensor) -> None:
        """Set one parameter to the base's value plus a change."""
        parameter = self._model.get_parameter(name)
        parameter.copy_(self._kept[name] + change)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)


def keep_weights(loaded: Loaded, path: Path) -> None:
    """Write the parameters, whole or not at all."""
    keep_tensors(path, dict(loaded.model.named_parameters()), "the weights of a trial")


@torch.no_grad()
def load_weights(loaded: Loaded, path: Path) -> None:
    """Read parameters that `keep_weights` wrote."""
    tensors = load_file(path)
    for name, parameter in loaded.model.named_parameters():
        parameter.copy_(tensors[name])
