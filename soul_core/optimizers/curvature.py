"""Estimates of the diagonal of the curvature, as pure functions of tensors. The optimizer only uses the result.

Shapes: P supervised positions, V vocabulary size. Lists have one tensor per trainable parameter.
"""

from collections.abc import Sequence

import torch


def sample_labels(logits_PV: torch.Tensor, uniform_P: torch.Tensor) -> torch.Tensor:
    """Return one label per position (P), sampled from the model's softmax.

    Args:
        uniform_P: Numbers in [0, 1) at which the cumulative distribution is inverted. They are an argument so that
            splitting a batch changes no label.
    """
    cumulative_PV = torch.softmax(logits_PV.detach().double(), dim=-1).cumsum_(dim=-1)
    label_P1 = torch.searchsorted(cumulative_PV, (uniform_P.double() * cumulative_PV[:, -1])[:, None], right=True)
    return label_P1[:, 0].clamp_(max=logits_PV.shape[-1] - 1)


def gauss_newton_bartlett(gradients: Sequence[torch.Tensor], num_positions: int) -> list[torch.Tensor]:
    """Return N * g^2, with g the gradient of the MEAN cross-entropy against sampled labels over N positions.

    Unbiased for the diagonal of the Gauss-Newton matrix of the mean cross-entropy, and never negative, whatever the
    unlearning objective.

    Source: Sophia, arXiv:2305.14342, algorithm 2.
    """
    return [gradient.float().square_().mul_(num_positions) for gradient in gradients]


def empirical_fisher(gradients: Sequence[torch.Tensor], num_positions: int) -> list[torch.Tensor]:
    """Return N * g^2, with g the gradient of the MEAN cross-entropy against the TRUE labels over N positions.

    Differs from Gauss-Newton-Bartlett in the labels alone, with two effects: its expectation is not the curvature
    unless the model's probabilities are right, and the square of g's own mean enters N-fold; it vanishes near a
    minimum and dominates far from it.

    Source: Kunstner et al. 2019, arXiv:1905.12558, equation 3; the gradient of the complete batch is squared as in
    Sophia, arXiv:2305.14342, section 2.3.
    """
    return [gradient.float().square_().mul_(num_positions) for gradient in gradients]


def sample_rademacher(shapes: Sequence[torch.Size], generator: torch.Generator) -> list[torch.Tensor]:
    """Return probes of -1 and +1, drawn on the CPU so that every device gets the same ones."""
    return [torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).float() * 2 - 1 for shape in shapes]


def hutchinson(probes: Sequence[torch.Tensor], products: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return z * (H z) for probes z of independent -1 and +1.

    Unbiased for the diagonal of H, of either sign.

    Source: Sophia, arXiv:2305.14342, algorithm 1.
    """
    return [probe * product.float() for probe, product in zip(probes, products, strict=True)]
