"""Sharpness-aware forget gradients: computed where the forget loss is worst nearby, so that relearning is harder.

Source: Fan et al. 2025, arXiv:2502.05374: sharpness-aware minimization (arXiv:2010.01412) of the forget term alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from soul_core.models.loading import LoadedModel
from soul_core.training.batches import is_retain
from soul_core.training.micro_batching import BatchUnit
from soul_core.training.step import Losses, get_trainable_parameters, pop_gradients


def add_sharpness_aware_gradients(
    add_gradients: Callable[[Sequence[BatchUnit]], Losses],
    loaded: LoadedModel,
    units: Sequence[BatchUnit],
    *,
    rho: float,
) -> Losses:
    """Accumulate w_f grad L_f(theta + delta) + w_r grad L_r(theta), delta = rho grad L_f / |grad L_f|, all at theta.

    Three passes: forget, forget, retain. Memory: a second gradient and a second copy of the trainable weights.

    Args:
        add_gradients: Accumulates the gradient of the total loss over units.
        rho: L2 norm of delta over all trainable weights.

    Returns:
        The losses at theta.
    """
    forget, retain = [unit for unit in units if not is_retain(unit)], [unit for unit in units if is_retain(unit)]
    if not forget:
        return add_gradients(retain)
    losses = add_gradients(forget)
    with _displace_weights(loaded, pop_gradients(loaded), rho):
        add_gradients(forget)
    worst = pop_gradients(loaded)
    retain_losses = add_gradients(retain) if retain else Losses()
    for parameter, gradient in zip(get_trainable_parameters(loaded), worst, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return replace(losses, total=losses.total + retain_losses.total, retain=retain_losses.retain)


@contextmanager
def _displace_weights(loaded: LoadedModel, direction: list[torch.Tensor], distance: float) -> Iterator[None]:
    """Change the trainable weights by `distance` along `direction`, and restore them exactly afterwards."""
    norm = torch.stack([tensor.norm() for tensor in direction]).norm()
    parameters = get_trainable_parameters(loaded)
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, tensor in zip(parameters, direction, strict=True):
                parameter.add_(tensor * (distance / norm.clamp(min=torch.finfo(norm.dtype).tiny)))
        direction.clear()
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, before, strict=True):
                parameter.copy_(weights)
