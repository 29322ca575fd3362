"""Sophia's update rule; the curvature comes from outside (see `curvature.py`).

Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3; for unlearning SOUL (Jia et al. 2024, arXiv:2404.18239, eq. 6).
Differs from the paper: a parameter below float32 is updated through a float32 master kept here, because a step of
2e-5 is lost in bfloat16's 8 bits; h is corrected for its start at zero, as Adam corrects its averages
(arXiv:1412.6980, section 3): unlearning ends after a few estimates, while the paper's h is still a fraction of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from soul_core.optimizers.clipped import ClippedOptimizer


class Sophia(ClippedOptimizer):
    """theta -= lr * wd * theta; theta -= lr * clip(m / max(gamma * h, eps), -1, 1).

    A weight is unclipped when |m| < gamma * h. Until the first call of `update_curvature` every step is a sign step.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        beta1: float,
        beta2: float,
        gamma: float,
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "num_estimates": 0,
        }
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def update_curvature(self, estimates: Sequence[torch.Tensor]) -> None:
        """Take one curvature estimate per parameter, in their order, into the corrected running average.

        h_n = sum_i w_i estimate_i / sum_i w_i with w_i = beta2^(n - i).
        """
        remaining = iter(estimates)
        for group in self.param_groups:
            weight = (1 - group["beta2"]) / (1 - group["beta2"] ** (group["num_estimates"] + 1))
            for parameter in group["params"]:
                self._get_state(parameter)["h"].lerp_(next(remaining), weight)
            group["num_estimates"] += 1
        assert next(remaining, None) is None, "more estimates than parameters"

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        state = self._get_state(parameter)
        master = state.get("master", parameter)
        assert parameter.grad is not None
        state["m"].lerp_(parameter.grad.to(state["m"].dtype), 1 - group["beta1"])
        denominator = state["h"] * group["gamma"]
        num_unclipped = (state["m"].abs() < denominator).sum()  # a weight without curvature never counts, even at rest
        ratio = torch.div(state["m"], denominator.clamp_(min=group["eps"]), out=denominator)
        if group["weight_decay"]:
            master.mul_(1 - group["lr"] * group["weight_decay"])
        master.add_(ratio.clamp_(-1, 1), alpha=-group["lr"])
        if master is not parameter:
            parameter.copy_(master)
        return num_unclipped

    def _get_state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Return momentum `m`, curvature `h` and, below float32, the `master` copy, all float32, like the parameter."""
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["h"] = torch.zeros_like(parameter, dtype=torch.float32)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.detach().float().clone()
        return state
