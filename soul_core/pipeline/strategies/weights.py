"""The base's weights, to begin each trial with, and those of finished trials, on disk until one is chosen."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from soul_core.atomic_io import translate_disk_errors
from soul_core.models.loading import LoadedModel
from soul_core.training.adapters import AdapterWeights
from soul_core.training.checkpoint import save_tensors
from soul_core.training.trainable import TrainableParameters

_WEIGHTS, _WHAT = "weights.safetensors", "the weights of a trial"


class BaseWeights:
    """A copy of the model's parameters in the host's memory."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._kept = {name: each.detach().cpu().clone() for name, each in loaded.model.named_parameters()}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the base's weights back, bit for bit."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self._kept[name])
        self._model.zero_grad(set_to_none=True)

    def compute_delta(self, path: Path, name: str) -> torch.Tensor:
        """Return what a kept training changed in one parameter."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) - self._kept[name]

    @torch.no_grad()
    def apply(self, name: str, delta: torch.Tensor) -> None:
        """Set one parameter to the base's value plus a change."""
        parameter = self._model.get_parameter(name)
        parameter.copy_(self._kept[name] + delta)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)


def save_weights(loaded: LoadedModel, path: Path) -> None:
    """Write the parameters, whole or not at all."""
    save_tensors(path, dict(loaded.model.named_parameters()), _WHAT)


def save_trainable(trainable: TrainableParameters, folder: Path) -> None:
    """Write the plain weights of a training that goes on, and its adapters where they are wanted. What is there after a
    crash is whole only if something written later names it.
    """
    save_tensors(folder / _WEIGHTS, trainable.get_merged_weights(), _WHAT)
    if adapter := trainable.get_adapter():
        with translate_disk_errors(_WHAT):
            adapter.save(folder)


def load_trainable(loaded: LoadedModel, folder: Path) -> AdapterWeights | None:
    """Read what `keep_movable` wrote: weights into the model, adapters returned."""
    load_weights(loaded, folder / _WEIGHTS)
    return AdapterWeights.load(folder)


@torch.no_grad()
def load_weights(loaded: LoadedModel, path: Path) -> None:
    """Read parameters that `keep_weights` wrote."""
    tensors = load_file(path)
    for name, parameter in loaded.model.named_parameters():
        parameter.copy_(tensors[name])
