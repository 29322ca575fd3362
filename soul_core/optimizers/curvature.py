"""Estimates of the diagonal of the curvature, apart from the update that uses them. Pure functions of tensors."""

from collections.abc import Sequence

import torch


def sample_labels(logits_PV: torch.Tensor, uniform_P: torch.Tensor) -> torch.Tensor:
    """Draw one label per position from the model's own softmax, by inverting its distribution at `uniform_P` in [0, 1).

    The uniforms come from outside so that splitting a batch changes no draw.
    """
    cumulative_PV = torch.softmax(logits_PV.detach().double(), dim=-1).cumsum_(dim=-1)
    drawn_P1 = torch.searchsorted(cumulative_PV, (uniform_P.double() * cumulative_PV[:, -1])[:, None], right=True)
    return drawn_P1[:, 0].clamp_(max=logits_PV.shape[-1] - 1)


def gauss_newton_bartlett(gradients: Sequence[torch.Tensor], num_positions: int) -> list[torch.Tensor]:
    """Return N * g^2, with g the gradient of the MEAN cross-entropy against sampled labels over N positions.

    Unbiased for the diagonal of the Gauss-Newton matrix of the mean cross-entropy, and never negative, whatever the
    unlearning objective. Source: Sophia, arXiv:2305.14342, algorithm 2.
    """
    return [gradient.float().square_().mul_(num_positions) for gradient in gradients]


def empirical_fisher(gradients: Sequence[torch.Tensor], num_positions: int) -> list[torch.Tensor]:
    """Return N * g^2, with g the gradient of the MEAN cross-entropy against the TRUE labels over N positions.

    Differs from Gauss-Newton-Bartlett in the labels alone, and so in two ways: its expectation is not the curvature
    unless the model's probabilities are right, and g has a mean of its own, whose square enters N-fold: near a
    minimum it vanishes, far from it it swamps the rest. Source: Kunstner et al. 2019, arXiv:1905.12558, equation 3,
    with the batch's gradient squared as a whole as in Sophia, arXiv:2305.14342, section 2.3.
    """
    return [gradient.float().square_().mul_(num_positions) for gradient in gradients]


def sample_rademacher(shapes: Sequence[torch.Size], generator: torch.Generator) -> list[torch.Tensor]:
    """Return probes of -1 and +1, drawn on the CPU: the same on every device."""
    return [torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).float() * 2 - 1 for shape in shapes]


def hutchinson(probes: Sequence[torch.Tensor], products: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return z * (H z) for probes z of independent -1 and +1.

    Unbiased for the diagonal of H, of either sign. Source: Sophia, arXiv:2305.14342, algorithm 1.
    """
    return [probe * product.float() for probe, product in zip(probes, products, strict=True)]
