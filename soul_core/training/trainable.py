"""The trainable parameters of a model: the weights that the spec selects, or low-rank adapters of their layers."""

from pathlib import Path
from typing import Any

import torch

from soul_core.models.loading import LoadedModel
from soul_core.spec import JobSpec
from soul_core.training.adapters import Adapters, AdapterWeights, find_adapter_targets
from soul_core.training.selection import select_parameters


def check_trainable_parameters(loaded: LoadedModel, spec: JobSpec) -> None:
    """Raise BadSpec for patterns and targets that match nothing in the model."""
    selection = select_parameters(loaded.model, spec.parameters)
    if spec.lora is not None:
        find_adapter_targets(loaded.model, spec.lora, selection)


class TrainableParameters:
    """Sets `requires_grad` of a model's parameters for the duration of a training. Its state is the weights."""

    def __init__(self, loaded: LoadedModel, spec: JobSpec) -> None:
        """Select the weights, or insert adapters; the model's outputs stay the same.

        Raises:
            BadSpec: As `check_trainable_parameters`.
        """
        self._model = loaded.model
        self._required = [(parameter, parameter.requires_grad) for parameter in loaded.model.parameters()]
        self._adapters: Adapters | None = None
        self._exports_adapter = spec.writes_adapter
        selection = select_parameters(loaded.model, spec.parameters)
        if spec.lora is None:
            for name, parameter in loaded.model.named_parameters():
                parameter.requires_grad_(name in selection)
        else:
            source = loaded.facts.source
            self._adapters = Adapters(
                loaded.model,
                spec.lora,
                find_adapter_targets(loaded.model, spec.lora, selection),
                base_name=Path(source).resolve().name if Path(source).exists() else source,
                seed=spec.seed,
            )
        self.parameters = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]

    def get_merged_weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters that `finalize` would leave in the model, by name. Training can continue."""
        return self._adapters.compute_merged_weights() if self._adapters else dict(self._model.named_parameters())

    def get_adapter(self) -> AdapterWeights | None:
        """Return a copy of the adapters, or None unless the spec exports them as an adapter."""
        return self._adapters.copy_weights() if self._adapters and self._exports_adapter else None

    def finalize(self) -> AdapterWeights | None:
        """Merge the adapters, if there are any, and restore `requires_grad`. Return what `get_adapter` does."""
        adapter = self.get_adapter()
        if self._adapters:
            self._adapters.merge()
        with torch.no_grad():
            for parameter, required in self._required:
                parameter.requires_grad_(required)
        return adapter

    def state_dict(self) -> dict[str, Any]:
        """Return the trainable weights in the model's order."""
        return {"parameters": self.parameters}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy saved weights into the model."""
        for parameter, tensor in zip(self.parameters, state_dict["parameters"], strict=True):
            parameter.copy_(tensor)
