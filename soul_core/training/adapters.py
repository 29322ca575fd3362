"""Low-rank adapters: added to frozen weights for a training, merged into the weights after it.

What follows a training (evaluation, attacks, export) sees a plain model of the same layers as before.
Source: LoRA (Hu et al. 2021, arXiv:2106.09685), by peft: W + alpha / rank * B A, B zero at first.
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
    """Trained adapters in peft's own form: what `output: adapter` leaves behind."""

    config: Any  # peft.LoraConfig
    tensors: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Write what `PeftModel.from_pretrained(base, folder)` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(str(folder))
        save_file(dict(self.tensors), folder / _TENSORS)

    @classmethod
    def load(cls, folder: Path) -> "AdapterWeights | None":
        """Undo `save`; None where nothing was saved."""
        if not (folder / _TENSORS).exists():
            return None
        from peft import LoraConfig

        return cls(LoraConfig.from_pretrained(str(folder)), load_file(folder / _TENSORS))


class Adapters:
    """Adapters inside a model, from their birth to their merging."""

    def __init__(self, model: PreTrainedModel, spec: Lora, targets: list[str], *, base_name: str, seed: int) -> None:
        """Put an adapter on each of `targets`; only they require gradients then. B is zero: the model says the same."""
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        self._model = model
        self._targets = targets
        if spec.base_weights != "float32":
            for name in targets:
                _replace(model, name, FrozenLinear(_linear(model, name, spec), spec.base_weights))
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
            torch.manual_seed(seed)  # A is drawn
            self._tuner = LoraModel(model, {_NAME: config}, _NAME)
        self._config = config

    def copy_weights(self) -> AdapterWeights:
        """Return a copy of the adapters as they are."""
        tensors = {
            f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": parameter.detach().cpu().clone().contiguous()
            for name, parameter in self._model.named_parameters()
            if ".lora_" in name
        }
        return AdapterWeights(self._config, tensors)

    @torch.no_grad()
    def compute_merged_weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters that `merge` would leave behind, under their plain names; the adapters stay."""
        plain = {
            name.replace(".base_layer.", "."): parameter.detach()
            for name, parameter in self._model.named_parameters()
            if ".lora_" not in name
        }
        for name in self._targets:
            adapter: Any = self._model.get_submodule(name)
            layer = adapter.base_layer
            whole = layer.original_weight if isinstance(layer, FrozenLinear) else layer.weight
            plain[f"{name}.weight"] = whole.detach() + adapter.get_delta_weight(_NAME).to(whole)
        return plain

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapters to the original weights and take them out."""
        adapted: dict[str, Any] = {name: self._model.get_submodule(name) for name in self._targets}
        self._tuner.unload()
        for name, adapter in adapted.items():
            layer: Any = self._model.get_submodule(name)
            if isinstance(layer, FrozenLinear):
                layer = layer.restore_original()
                _replace(self._model, name, layer)
            layer.weight.add_(adapter.get_delta_weight(_NAME).to(layer.weight))


def find_adapter_targets(model: PreTrainedModel, spec: Lora, trainable_names: set[str]) -> list[str]:
    """Return the names of the linear layers that get an adapter, of those whose weight is in `trainable`.

    Raises BadSpec for a target that no layer is called by, with the near name.
    """
    last = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not last
    }
    known = sorted({name.rpartition(".")[2] for name in linear})
    for number, target in enumerate(spec.targets):
        if target not in {ALL_LINEAR, *known}:
            near = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"they are called {', '.join(known)}"
            raise BadSpec(f"lora.targets.{number}: no linear layer is called '{target}'; {hint}")
    wanted = set(known) if ALL_LINEAR in spec.targets else set(spec.targets)
    targets = [name for name in linear if name.rpartition(".")[2] in wanted and f"{name}.weight" in trainable_names]
    if not targets:
        raise BadSpec("parameters: none of the weights they choose is a target of LoRA; choose others, or more targets")
    if spec.base_weights != "float32":
        for name in targets:
            check_quantizable(_linear(model, name, spec), spec.base_weights)
    return targets


def _linear(model: PreTrainedModel, name: str, spec: Lora) -> torch.nn.Linear:
    layer = model.get_submodule(name)
    if not isinstance(layer, torch.nn.Linear):
        raise BadSpec(
            f"lora.base_weights: {type(model).__name__} has {type(layer).__name__} layers, which '{spec.base_weights}' "
            "does not know; take 'float32'"
        )
    return layer


def _replace(model: PreTrainedModel, name: str, layer: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
