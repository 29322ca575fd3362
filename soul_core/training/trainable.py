"""What of a model moves in a training: the weights the spec selects, or low-rank adapters beside them."""

from pathlib import Path

import torch

from soul_core.models.loading import LoadedModel
from soul_core.spec import JobSpec
from soul_core.training.adapters import Adapters, AdapterWeights, find_adapter_targets
from soul_core.training.selection import select_parameters


def check_trainable_parameters(loaded: LoadedModel, spec: JobSpec) -> None:
    """Raise BadSpec for patterns and targets that the model does not have, before anything is spent."""
    movable = select_parameters(loaded.model, spec.parameters)
    if spec.lora is not None:
        find_adapter_targets(loaded.model, spec.lora, movable)


class TrainableParameters:
    """Marks what may move by `requires_grad` for the time of a training."""

    def __init__(self, loaded: LoadedModel, spec: JobSpec) -> None:
        """Choose, and put the adapters in. What the model says does not change. Raises BadSpec as `check_movable`."""
        self._model = loaded.model
        self._before = [(parameter, parameter.requires_grad) for parameter in loaded.model.parameters()]
        chosen = select_parameters(loaded.model, spec.parameters)
        self._adapters: Adapters | None = None
        self._wanted = spec.writes_adapter
        if spec.lora is None:
            for name, parameter in loaded.model.named_parameters():
                parameter.requires_grad_(name in chosen)
            return
        source = loaded.facts.source
        self._adapters = Adapters(
            loaded.model,
            spec.lora,
            find_adapter_targets(loaded.model, spec.lora, chosen),
            base_name=Path(source).resolve().name if Path(source).exists() else source,
            seed=spec.seed,
        )

    def get_merged_weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters that `settle` would leave behind, by name. The training can go on."""
        return self._adapters.compute_merged_weights() if self._adapters else dict(self._model.named_parameters())

    def get_adapter(self) -> AdapterWeights | None:
        """Return the adapters as they are, where the spec wants them for themselves."""
        return self._adapters.copy_weights() if self._adapters and self._wanted else None

    def finalize(self) -> AdapterWeights | None:
        """Merge the adapters, if there are any; the model is then as plain as before. Return them if they are wanted
        for themselves.
        """
        weights = self.get_adapter()
        if self._adapters:
            self._adapters.merge()
        with torch.no_grad():
            for parameter, required in self._before:
                parameter.requires_grad_(required)
        return weights
