"""The released SOUL code's update, for comparison. It is an Adam-like step, not a second-order one.

Source: the code published with Jia et al. 2024, arXiv:2404.18239: its Sophia is called by a plain training loop, so
every step squares the clipped gradient of the unlearning loss, averages the momentum in two places, and takes the
default batch size of 5120. Nothing here is averaged in float32 where weights are bfloat16.
Differs from Sophia (arXiv:2305.14342) in all of that; see `sophia.py` for the update as published.
"""

from collections.abc import Iterable
from typing import Any

import torch

from soul_core.optimizers.clipped import ClippedOptimizer

#: The released code multiplies the squared gradient by this, whatever the batch.
UPSTREAM_BATCH_SIZE = 5120
_EPS = 1e-15


class UpstreamCompat(ClippedOptimizer):
    """h <- b2 h + (1-b2) g^2; m <- b1 m + (1-b1) g, twice; theta <- theta - lr sign(m) min(1, |m| / (rho 5120 h)).

    Weights are rounded to `weights_dtype` at once and after every step; the state has that type. A weight is unclipped
    when |m| < rho 5120 h.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        beta1: float,
        beta2: float,
        rho: float,
        weight_decay: float,
        weights_dtype: torch.dtype,
    ) -> None:
        defaults = {"lr": lr, "beta1": beta1, "beta2": beta2, "rho": rho, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self._dtype = weights_dtype
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.copy_(parameter.to(weights_dtype))

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter, dtype=self._dtype)
            state["h"] = torch.zeros_like(parameter, dtype=self._dtype)
        assert parameter.grad is not None
        gradient, weights = parameter.grad.to(self._dtype), parameter.to(self._dtype)
        m, h = state["m"], state["h"]
        h.mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
        m.mul_(group["beta1"]).add_(gradient, alpha=1 - group["beta1"])
        if parameter.ndim > 1:  # the released code decays neither norms nor biases
            weights.mul_(1 - group["lr"] * group["weight_decay"])
        m.mul_(group["beta1"]).add_(gradient, alpha=1 - group["beta1"])
        ratio = m.abs() / (group["rho"] * UPSTREAM_BATCH_SIZE * h + _EPS)
        num_unclipped = ((ratio < 1) & (h > 0)).sum()
        weights.addcmul_(m.sign(), ratio.clamp_(max=1), value=-group["lr"])
        parameter.copy_(weights)
        return num_unclipped
