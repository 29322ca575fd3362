"""What Sophia and the released SOUL code's update have in common: a step clipped per weight, and a state of its own
type.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.optim import Optimizer


class ClippedOptimizer(Optimizer, ABC):
    """Base of optimizers that clip the step of each weight. A subclass defines `_update`."""

    unclipped_fraction: float | None = None
    """Fraction of the weights whose last step was not clipped. None before a step. Sophia's authors want 0.1 to 0.5.
    Embedding rows that no example uses have neither gradient nor curvature: they count as clipped.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        self.prepare_step()
        num_unclipped: list[torch.Tensor] = []
        num_weights = 0
        for parameter, group in self._list_updated():
            num_unclipped.append(self._update(parameter, group))
            num_weights += parameter.numel()
        self.unclipped_fraction = float(torch.stack(num_unclipped).sum()) / num_weights if num_weights else None

    def prepare_step(self) -> None:
        """Compute what the update of one parameter needs of the others; a second call before a step does nothing."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state in the types it was saved in; torch's own would cast it to the parameters' types."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, tensor in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = tensor.to(parameter.device, copy=True)

    def _list_updated(self) -> list[tuple[torch.nn.Parameter, dict[str, Any]]]:
        """Return the parameters that have a gradient, each with its group."""
        return [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    @abstractmethod
    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        """Update one parameter in place; return how many of its weights were not clipped."""
