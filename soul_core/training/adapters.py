"""Low-rank adapters: added to frozen layers for a training, and merged into the weights after it.

Evaluation, attacks and export after the training get a model with its original layers.
Source: LoRA (Hu et al. 2021, arXiv:2106.09685), by peft: W + alpha / rank * B A, with B initially zero.
Differs from it: no dropout, because the model stays in eval mode.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from soul_core.errors import BadSpec
from soul_core.spec.wrappers import Lora
from soul_core.training.quantized_base import FrozenLinear, check_quantizable

_NAME, _TENSORS = "default", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AdapterWeights:
    """Trained adapters in peft's format: the result of `output: adapter`."""

    config: Any  # peft.LoraConfig
    tensors: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Write the files that `PeftModel.from_pretrained(base, folder)` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(str(folder))
        save_file(dict(self.tensors), folder / _TENSORS)

    @classmethod
    def load(cls, folder: Path) -> "AdapterWeights | None":
        """Return the adapters that `save` wrote, or None if there are none."""
        if not (folder / _TENSORS).exists():
            return None
        from peft import LoraConfig

        return cls(LoraConfig.from_pretrained(str(folder)), load_file(folder / _TENSORS))


class Adapters:
    """The adapters inside a model, until they are merged."""

    def __init__(self, model: PreTrainedModel, spec: Lora, targets: list[str], *, base_name: str, seed: int) -> None:
        """Add an adapter to each of `targets`. Only adapters require gradients then; outputs stay the same."""
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        self._model = model
        self._targets = targets
        if spec.base_weights != "float32":
            for name in targets:
                _replace_layer(model, name, FrozenLinear(_get_linear(model, name, spec), spec.base_weights))
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            target_modules=targets,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_name,
            fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # A is random
            self._tuner = LoraModel(model, {_NAME: config}, _NAME)
        self._config = config

    def copy_weights(self) -> AdapterWeights:
        """Return a copy of the adapters."""
        tensors = {
            f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": parameter.detach().cpu().clone().contiguous()
            for name, parameter in self._model.named_parameters()
            if ".lora_" in name
        }
        return AdapterWeights(self._config, tensors)

    @torch.no_grad()
    def compute_merged_weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters that the model would have after `merge`, by name. The adapters stay."""
        merged = {
            name.replace(".base_layer.", "."): parameter.detach()
            for name, parameter in self._model.named_parameters()
            if ".lora_" not in name
        }
        for name in self._targets:
            adapter: Any = self._model.get_submodule(name)
            layer = adapter.base_layer
            weight = layer.original_weight if isinstance(layer, FrozenLinear) else layer.weight
            merged[f"{name}.weight"] = weight.detach() + adapter.get_delta_weight(_NAME).to(weight)
        return merged

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapters to the original weights and remove them."""
        adapters: dict[str, Any] = {name: self._model.get_submodule(name) for name in self._targets}
        self._tuner.unload()
        for name, adapter in adapters.items():
            layer: Any = self._model.get_submodule(name)
            if isinstance(layer, FrozenLinear):
                layer = layer.restore_original()
                _replace_layer(self._model, name, layer)
            layer.weight.add_(adapter.get_delta_weight(_NAME).to(layer.weight))


def find_adapter_targets(model: PreTrainedModel, spec: Lora, trainable_names: set[str]) -> list[str]:
    """Return the names of the linear layers that get an adapter, among those whose weight is in `trainable_names`.

    Raises:
        BadSpec: No linear layer has the name of a target; or there is no layer to adapt.
    """
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    known = sorted({name.rpartition(".")[2] for name in linear})
    for number, target in enumerate(spec.targets):
        if target not in {ALL_LINEAR, *known}:
            near = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the model has {', '.join(known)}"
            raise BadSpec(f"lora.targets.{number}: no linear layer has the name '{target}'; {hint}")
    selected = set(known) if ALL_LINEAR in spec.targets else set(spec.targets)
    targets = [name for name in linear if name.rpartition(".")[2] in selected and f"{name}.weight" in trainable_names]
    if not targets:
        raise BadSpec(
            "parameters: none of the selected weights is a target of LoRA; select others, or add to lora.targets"
        )
    if spec.base_weights != "float32":
        for name in targets:
            check_quantizable(_get_linear(model, name, spec), spec.base_weights)
    return targets


def _get_linear(model: PreTrainedModel, name: str, spec: Lora) -> torch.nn.Linear:
    layer = model.get_submodule(name)
    if not isinstance(layer, torch.nn.Linear):
        raise BadSpec(
            f"lora.base_weights: '{spec.base_weights}' does not support the {type(layer).__name__} layers of "
            f"{type(model).__name__}; use 'float32'"
        )
    return layer


def _replace_layer(model: PreTrainedModel, name: str, layer: torch.nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
