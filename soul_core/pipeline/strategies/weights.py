"""The base model's weights, from which each trial starts, and saved weights of trials until one is chosen."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from soul_core.atomic_io import translate_disk_errors
from soul_core.models.loading import LoadedModel
from soul_core.training.adapters import AdapterWeights
from soul_core.training.checkpoint import save_tensors
from soul_core.training.trainable import TrainableParameters

_FILE_NAME, _DESCRIPTION = "weights.safetensors", "the weights of a trial"


class BaseWeights:
    """A copy of the model's parameters in host memory."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._copies = {name: parameter.detach().cpu().clone() for name, parameter in loaded.model.named_parameters()}

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the base weights, bit-identical."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(self._copies[name])
        self._model.zero_grad(set_to_none=True)

    def compute_delta(self, path: Path, name: str) -> torch.Tensor:
        """Return what a saved training changed in one parameter."""
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) - self._copies[name]

    @torch.no_grad()
    def apply(self, name: str, delta: torch.Tensor) -> None:
        """Set one parameter to the base value plus a change."""
        parameter = self._model.get_parameter(name)
        parameter.copy_(self._copies[name] + delta)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self._copies)


def save_weights(loaded: LoadedModel, path: Path) -> None:
    """Write the parameters, completely or not at all."""
    save_tensors(path, dict(loaded.model.named_parameters()), _DESCRIPTION)


def save_trainable(trainable: TrainableParameters, folder: Path) -> None:
    """Write the plain weights of a running training, and its adapters if the spec exports them.

    After a crash the folder is complete only if a file that was written later names it.
    """
    save_tensors(folder / _FILE_NAME, trainable.get_merged_weights(), _DESCRIPTION)
    if adapter := trainable.get_adapter():
        with translate_disk_errors(_DESCRIPTION):
            adapter.save(folder)


def load_trainable(loaded: LoadedModel, folder: Path) -> AdapterWeights | None:
    """Load what `save_trainable` wrote: weights into the model; adapters are returned."""
    load_weights(loaded, folder / _FILE_NAME)
    return AdapterWeights.load(folder)


@torch.no_grad()
def load_weights(loaded: LoadedModel, path: Path) -> None:
    """Load the parameters that `save_weights` wrote into the model."""
    tensors = load_file(path)
    for name, parameter in loaded.model.named_parameters():
        parameter.copy_(tensors[name])
