"""The tables of optimizers and curvature estimates: kind -> what builds or computes it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from soul_core import spec_optimizers
from soul_core.optimizers.curvature import gauss_newton_bartlett
from soul_core.optimizers.sophia import Sophia

Parameters = Iterable[torch.nn.Parameter]


def _adamw(parameters: Parameters, spec: spec_optimizers.AdamW) -> Optimizer:
    return AdamW(
        parameters,
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=True,  # a third of the plain loop's time on a CPU, fewer launches on a GPU
    )


def _sophia(parameters: Parameters, spec: spec_optimizers.Sophia) -> Optimizer:
    return Sophia(
        parameters,
        lr=spec.lr,
        beta1=spec.beta1,
        beta2=spec.curvature.beta2,
        gamma=spec.gamma,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
    )


OPTIMIZERS: dict[str, Callable[[Parameters, Any], Optimizer]] = {"adamw": _adamw, "sophia": _sophia}

#: kind -> function of the gradients of the mean sampled cross-entropy and the number of positions.
CURVATURES: dict[str, Callable[[Sequence[torch.Tensor], int], list[torch.Tensor]]] = {"gnb": gauss_newton_bartlett}
