"""Sophia's update rule; the curvature comes from outside (see `curvature.py`).

Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3; for unlearning SOUL (Jia et al. 2024, arXiv:2404.18239, eq. 6).
Differs from the paper: a parameter below float32 is updated through a float32 master kept here, because a step of
2e-5 is lost in bfloat16's 8 bits; h is corrected for its start at zero, as Adam corrects its averages
(arXiv:1412.6980, section 3): unlearning ends after a few estimates, while the paper's h is still a fraction of them;
gamma may be chosen at every step (see `scale.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from soul_core.optimizers.clipped import ClippedOptimizer
from soul_core.optimizers.scale import choose_gamma


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
        gamma: float | None,
        eps: float,
        weight_decay: float,
        target_unclipped: float = 0.5,
    ) -> None:
        """Make an optimizer.

        Args:
            gamma: Scale of the curvature; None: chosen at every step so that `target_unclipped` of the weights that
                have momentum are not clipped.
        """
        defaults = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "gamma": gamma,
            "eps": torch.finfo(torch.float32).tiny if gamma is None else eps,  # a scale would be an absolute one
            "weight_decay": weight_decay,
            "num_estimates": 0,
        }
        super().__init__(parameters, defaults)
        self.chooses_gamma, self._target_unclipped = gamma is None, target_unclipped
        self._is_prepared = False

    @property
    def gamma(self) -> float | None:
        """The scale of the curvature in the last step. None before the first, if it is chosen."""
        gamma: float | None = self.param_groups[0]["gamma"]
        return gamma

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

    @torch.no_grad()
    def prepare_step(self) -> None:
        """Average the gradients into the momentum and, if gamma is not given, choose it."""
        if self._is_prepared:
            return
        updated = self._list_updated()
        for parameter, group in updated:
            m = self._get_state(parameter)["m"]
            m.lerp_(parameter.grad.to(m.dtype), 1 - group["beta1"])  # type: ignore[union-attr]
        if self.chooses_gamma and updated:
            states = [self.state[parameter] for parameter, _ in updated]
            gamma = choose_gamma(
                [state["m"] for state in states], [state["h"] for state in states], self._target_unclipped
            )
            for group in self.param_groups:
                group["gamma"] = gamma
        self._is_prepared = True

    @torch.no_grad()
    def predict_rise(self) -> float:
        """Return 1/2 u' diag(h) u of the prepared step u at learning rate 1: nats per token of the data of h."""
        self.prepare_step()
        parts = [
            (self._get_state(p)["h"] * self._make_direction(p, g).square_()).sum() for p, g in self._list_updated()
        ]
        return float(torch.stack(parts).double().sum()) / 2

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        self._is_prepared = False

    @torch.no_grad()
    def shorten_step(self, factor: float) -> None:
        """Change the last step to `factor` times its length, before the next gradients; weight decay stays."""
        for parameter, group in self._list_updated():
            correction = self._make_direction(parameter, group).mul_(group["lr"] * (1 - factor))
            self._add_to_master(parameter, correction)
        for group in self.param_groups:
            group["lr"] *= factor

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        state = self._get_state(parameter)
        num_unclipped = (state["m"].abs() < state["h"] * group["gamma"]).sum()  # one at rest without curvature: clipped
        if group["weight_decay"]:
            state.get("master", parameter).mul_(1 - group["lr"] * group["weight_decay"])
        self._add_to_master(parameter, self._make_direction(parameter, group).mul_(-group["lr"]))
        return num_unclipped

    def _add_to_master(self, parameter: torch.nn.Parameter, change: torch.Tensor) -> None:
        master = self._get_state(parameter).get("master", parameter)
        master.add_(change)
        if master is not parameter:
            parameter.copy_(master)

    def _make_direction(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        """Return clip(m / max(gamma h, eps), -1, 1) of the prepared momentum, like the parameter."""
        state = self._get_state(parameter)
        denominator = (state["h"] * group["gamma"]).clamp_(min=group["eps"])
        return torch.div(state["m"], denominator, out=denominator).clamp_(-1, 1)

    def _get_state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Return momentum `m`, curvature `h` and, below float32, the `master` copy, all float32, like the parameter."""
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["h"] = torch.zeros_like(parameter, dtype=torch.float32)
            if parameter.dtype != torch.float32:
                state["master"] = parameter.detach().float().clone()
        return state
