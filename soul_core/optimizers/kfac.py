"""Momentum preconditioned by the covariance of each layer's inputs: the input side of K-FAC.

The curvature of a linear layer y = W x is approximated by the Kronecker product of E[x x^T] and E[g g^T], x its inputs
and g the gradients at its outputs (K-FAC, Martens and Grosse 2015, arXiv:1503.05671, section 3). Only the first factor
is used (as in Benzing 2022, arXiv:2201.12250), so a step changes the layer's outputs most where its inputs are unlike
those of the data to keep: an off-diagonal curvature, which Sophia's diagonal cannot express.

Differs from K-FAC: the factors are those of the base model on the data to keep, computed once; the step is scaled to a
root mean square, so that `lr` means the same for every model; weights outside linear layers are held.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class KfacOptimizer(Optimizer):
    """W -= lr * v / rms(v), v = m (A + damping)^-1, m the running average of the gradients, rms over all weights.

    The state holds the momentum `m` and, below float32, a `master` copy of the weights.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], *, lr: float, beta1: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "beta1": beta1})
        self._preconditioners: dict[torch.nn.Parameter, torch.Tensor] | None = None
        self._steps: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def set_preconditioners(self, preconditioners: Sequence[torch.Tensor | None]) -> None:
        """Take one matrix per parameter, in their order; a parameter with None is held from now on.

        A matrix of the size of the weights' last dimension multiplies from the right, else from the left. Without this
        call, all weights are updated by plain momentum.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        pairs = zip(parameters, preconditioners, strict=True)
        self._preconditioners = {parameter: matrix for parameter, matrix in pairs if matrix is not None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state in the types it was saved in; torch's own would cast it to the parameters' types."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, tensor in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = tensor.to(parameter.device, copy=True)

    def predict_rise(self) -> None:
        """Return None: half a curvature predicts no loss."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient and is not held."""
        assert closure is None
        self._steps, factors, squares, num_weights = [], [], [], 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None or not self._updates(parameter):
                    continue
                momentum = self._get_state(parameter)["m"]
                momentum.lerp_(parameter.grad.to(momentum.dtype), 1 - group["beta1"])
                direction = self._precondition(parameter, momentum)
                squares.append(direction.square().sum())
                num_weights += direction.numel()
                self._steps.append((parameter, direction))
                factors.append(-group["lr"])
        rms = math.sqrt(float(torch.stack(squares).double().sum()) / num_weights) if squares else 0.0
        for (parameter, direction), factor in zip(self._steps, factors, strict=True):
            self._add(parameter, direction.mul_(factor / rms if rms else 0.0))

    @torch.no_grad()
    def shorten_step(self, factor: float) -> None:
        """Change the last step to `factor` times its length, before the next gradients."""
        for parameter, change in self._steps:
            self._add(parameter, change, scale=factor - 1)
            change.mul_(factor)
        for group in self.param_groups:
            group["lr"] *= factor

    def _updates(self, parameter: torch.nn.Parameter) -> bool:
        return self._preconditioners is None or parameter in self._preconditioners

    def _precondition(self, parameter: torch.nn.Parameter, momentum: torch.Tensor) -> torch.Tensor:
        """Return the preconditioned momentum, a new tensor."""
        if self._preconditioners is None:
            return momentum.clone()
        matrix = self._preconditioners[parameter]
        return momentum @ matrix if momentum.shape[-1] == len(matrix) else matrix @ momentum

    def _add(self, parameter: torch.nn.Parameter, change: torch.Tensor, *, scale: float = 1.0) -> None:
        master = self._get_state(parameter).get("master", parameter)
        master.add_(change, alpha=scale)
        if master is not parameter:
            parameter.copy_(master)

    def _get_state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter, dtype=torch.float32)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.detach().float().clone()
        return state
