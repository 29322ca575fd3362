"""The table of curvature estimates: kind -> what passes over the examples and returns one tensor a weight."""

from collections.abc import Callable, Sequence

import torch

from soul_core.models.loading import LoadedModel
from soul_core.optimizers import curvature
from soul_core.training.micro_batching import BatchUnit, MicroBatcher
from soul_core.training.second_order import hessian_vector_product
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters

CurvatureEstimator = Callable[[LoadedModel, Sequence[BatchUnit], MicroBatcher, torch.Generator], list[torch.Tensor]]


def _gnb(
    loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher, generator: torch.Generator
) -> list[torch.Tensor]:
    return curvature.gauss_newton_bartlett(*compute_nll_gradients(loaded, units, batcher, label_generator=generator))


def _empirical_fisher(
    loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher, _: torch.Generator
) -> list[torch.Tensor]:
    return curvature.empirical_fisher(*compute_nll_gradients(loaded, units, batcher))


def _hutchinson(
    loaded: LoadedModel, units: Sequence[BatchUnit], batcher: MicroBatcher, generator: torch.Generator
) -> list[torch.Tensor]:
    probes = [
        probe.to(loaded.device)
        for probe in curvature.sample_rademacher(
            [parameter.shape for parameter in get_trainable_parameters(loaded)], generator
        )
    ]
    return curvature.hutchinson(probes, hessian_vector_product(loaded, units, batcher, probes))


CURVATURE_ESTIMATORS: dict[str, CurvatureEstimator] = {
    "gnb": _gnb,
    "hutchinson": _hutchinson,
    "empirical_fisher": _empirical_fisher,
}

#: What a kind costs, in forward and backward passes.
PASSES_PER_ESTIMATE: dict[str, float] = {"gnb": 1.0, "hutchinson": 2.0, "empirical_fisher": 1.0}
