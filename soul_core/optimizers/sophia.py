"""Sophia's update rule, apart from the curvature it is given (see `curvature.py`).

Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3; for unlearning SOUL (Jia et al. 2024, arXiv:2404.18239, eq. 6).
Differs from the paper: a parameter below float32 is updated through a float32 master kept here, because a step of
2e-5 is lost in bfloat16's 8 bits; h is corrected for its start at zero, as Adam corrects its averages
(arXiv:1412.6980, section 3): unlearning ends after a few estimates, where the paper's h is still a fraction of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class Sophia(Optimizer):
    """theta -= lr * wd * theta; theta -= lr * clip(m / max(gamma * h, eps), -1, 1).

    `observe()` feeds curvature estimates; until the first one every step is a sign step.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
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
            "num_observed": 0,
        }
        super().__init__(parameters, defaults)
        self.unclipped_fraction: float | None = None
        """Share of all weights whose last step was not clipped (|m| < gamma * h); the authors want 0.1 to 0.5. None
        before a step. Rows of an embedding that no example uses have neither: they count as clipped.
        """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Momentum is averaged once a step."""
        assert closure is None
        unclipped: list[torch.Tensor] = []
        total = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                unclipped.append(self._update(parameter, group))
                total += parameter.numel()
        self.unclipped_fraction = float(torch.stack(unclipped).sum()) / total if total else None

    @torch.no_grad()
    def update_curvature(self, estimates: Sequence[torch.Tensor]) -> None:
        """Take one curvature estimate a parameter, in the order of the parameters, into the corrected running average:
        h_n = sum_i w_i estimate_i / sum_i w_i with w_i = beta2^(n - i).
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        group = self.param_groups[0]
        share = (1 - group["beta2"]) / (1 - group["beta2"] ** (group["num_observed"] + 1))
        for parameter, estimate in zip(parameters, estimates, strict=True):
            self._state(parameter)["h"].lerp_(estimate, share)
        for each in self.param_groups:
            each["num_observed"] += 1

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        state = self._state(parameter)
        master = state.get("master", parameter)
        assert parameter.grad is not None
        state["m"].lerp_(parameter.grad.to(state["m"].dtype), 1 - group["beta1"])
        denominator = state["h"] * group["gamma"]
        unclipped = (state["m"].abs() < denominator).sum()  # a weight without curvature never counts, even at rest
        ratio = torch.div(state["m"], denominator.clamp_(min=group["eps"]), out=denominator)
        if group["weight_decay"]:
            master.mul_(1 - group["lr"] * group["weight_decay"])
        master.add_(ratio.clamp_(-1, 1), alpha=-group["lr"])
        if master is not parameter:
            parameter.copy_(master)
        return unclipped

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["h"] = torch.zeros_like(parameter, dtype=torch.float32)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.detach().float().clone()
        return state
