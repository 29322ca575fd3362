"""The covariance of the inputs of every linear layer on the data to keep, inverted, for the optimizer `kfac`.

Shapes: N tokens, D inputs of a layer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.errors import BadSpec
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec.optimizers import Kfac
from soul_core.training.checkpoint import save_tensors
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher
from soul_core.training.schedule import MAX_FACTOR_ROWS

_FILE = "input_factors.safetensors"
#: A layer with more inputs is held: its matrix would take more memory than its weights are worth. Ours.
MAX_INPUTS = 8192
#: A layer that fewer tokens reached (an expert, for instance) is held. Ours.
_MIN_TOKENS = 32


def load_or_compute_preconditioners(
    loaded: LoadedModel,
    parameters: Sequence[torch.nn.Parameter],
    groups: Mapping[ExampleGroup, Sequence[Example]],
    spec: Kfac,
    batcher: MicroBatcher,
    folder: Path,
) -> list[torch.Tensor | None]:
    """Return (A + damping * mean eigenvalue of A)^-1 for each parameter.

    A is the mean of x x^T over all tokens of retain and guard rows that reach the parameter's layer. None stands for a
    parameter outside linear layers, or of one with too many inputs or too few tokens. The matrices of an
    earlier attempt are read from `folder`: the model is no longer the base model then.

    Raises:
        BadSpec: There is no such layer.
    """
    layers = _find_layers(loaded, parameters)
    if (folder / _FILE).exists():
        stored = load_file(folder / _FILE, device=str(loaded.device))
        keys = {int(number): str(int(key)) for number, key in zip(stored["numbers"], stored["keys"], strict=True)}
        return [stored[keys[number]] if number in keys else None for number in range(len(parameters))]
    covariances = _InputCovariances(layers)
    with covariances, torch.no_grad():
        batcher.run(_select_units(groups), lambda batch: _read(loaded, batch), covariances.clear)
    inverses = {
        number: _invert(total / num_tokens, spec.damping)
        for number, (total, num_tokens) in covariances.totals.items()
        if num_tokens >= _MIN_TOKENS
    }
    leaders = {number: leader for number, leader in covariances.leaders.items() if leader in inverses}
    if not leaders:
        raise BadSpec(
            "optimizer.kind: kfac trains the matrices of linear layers, and none is selected; select others by "
            "`parameters`, or choose another optimizer"
        )
    tensors = {str(number): inverse for number, inverse in inverses.items()}
    tensors |= {"numbers": torch.tensor(list(leaders)), "keys": torch.tensor(list(leaders.values()))}
    save_tensors(folder / _FILE, tensors, "the preconditioners")
    return [inverses[leaders[number]] if number in leaders else None for number in range(len(parameters))]


def _select_units(groups: Mapping[ExampleGroup, Sequence[Example]]) -> list[BatchUnit]:
    """Return retain and guard rows, at most MAX_FACTOR_ROWS of each; the forget rows if there are no others."""
    names: tuple[ExampleGroup, ...] = ("retain", "guard")
    if not any(groups.get(name) for name in names):
        names = ("forget",)
    rows = ((name, index, row) for name in names for index, row in enumerate(groups.get(name, ())[:MAX_FACTOR_ROWS]))
    return [(BatchItem(*row),) for row in rows]


def _find_layers(loaded: LoadedModel, parameters: Sequence[torch.nn.Parameter]) -> dict[int, nn.Module]:
    """Return number of the parameter -> linear layer; the output embedding is none of them."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    output = loaded.model.get_output_embeddings()
    return {
        numbers[id(module.weight)]: module
        for module in loaded.model.modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not output
        and id(module.weight) in numbers
        and _count_inputs(module) <= MAX_INPUTS
    }


def _count_inputs(layer: Any) -> int:
    return int(layer.weight.shape[0] if isinstance(layer, Conv1D) else layer.weight.shape[1])


def _read(loaded: LoadedModel, batch: Sequence[BatchItem]) -> None:
    with loaded.autocast():
        score(loaded.model, pack([item.example for item in batch], loaded.device))


def _invert(covariance_DD: torch.Tensor, damping: float) -> torch.Tensor:
    damped_DD = covariance_DD.clone()
    damped_DD.diagonal().add_(damping * covariance_DD.trace() / len(covariance_DD))
    return torch.cholesky_inverse(torch.linalg.cholesky(damped_DD))


class _InputCovariances:
    """Sums of x x^T over the forward passes inside the context, kept once for layers with the same input."""

    def __init__(self, layers: dict[int, nn.Module]) -> None:
        self._layers = layers
        self.leaders: dict[int, int] = {}
        self.totals: dict[int, tuple[torch.Tensor, int]] = {}
        self._last: tuple[int, torch.Tensor] | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._hooks = [
            layer.register_forward_pre_hook(lambda _, inputs, number=number: self._record(number, inputs[0]))
            for number, layer in self._layers.items()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._last = None

    def clear(self) -> None:
        """Forget what was recorded: the pass starts again."""
        self.totals.clear()

    def _record(self, number: int, x: torch.Tensor) -> None:
        is_shared = self._last is not None and self._last[1] is x
        leader = self.leaders.setdefault(number, self._last[0] if is_shared and self._last else number)
        self._last = (leader, x)
        if leader != number:
            return
        x_ND = x.detach().reshape(-1, x.shape[-1]).float()
        total, num_tokens = self.totals.get(number, (x_ND.new_zeros(x.shape[-1], x.shape[-1]), 0))
        # in place: autocast would compute a product of its own in bfloat16, which has no inverse to speak of
        self.totals[number] = (total.addmm_(x_ND.T, x_ND), num_tokens + len(x_ND))
