"""The table of curvature estimates: kind -> what passes over the examples and returns one tensor a weight."""

from collections.abc import Callable, Sequence

import torch

from soul_core.models.loading import Loaded
from soul_core.optimizers import curvature
from soul_core.training.micro_batching import MicroBatcher, Unit
from soul_core.training.second_order import hessian_product
from soul_core.training.step import nll_gradients, trainable

Estimate = Callable[[Loaded, Sequence[Unit], MicroBatcher, torch.Generator], list[torch.Tensor]]


def _gnb(
    loaded: Loaded, units: Sequence[Unit], batcher: MicroBatcher, generator: torch.Generator
) -> list[torch.Tensor]:
    return curvature.gauss_newton_bartlett(*nll_gradients(loaded, units, batcher, sampled_by=generator))


def _empirical_fisher(
    loaded: Loaded, units: Sequence[Unit], batcher: MicroBatcher, _: torch.Generator
) -> list[torch.Tensor]:
    return curvature.empirical_fisher(*nll_gradients(loaded, units, batcher))


def _hutchinson(
    loaded: Loaded, units: Sequence[Unit], batcher: MicroBatcher, generator: torch.Generator
) -> list[torch.Tensor]:
    probes = [
        probe.to(loaded.device) for probe in curvature.rademacher([each.shape for each in trainable(loaded)], generator)
    ]
    return curvature.hutchinson(probes, hessian_product(loaded, units, batcher, probes))


CURVATURES: dict[str, Estimate] = {"gnb": _gnb, "hutchinson": _hutchinson, "empirical_fisher": _empirical_fisher}

#: What a kind costs, in forward and backward passes.
PASSES: dict[str, float] = {"gnb": 1.0, "hutchinson": 2.0, "empirical_fisher": 1.0}
