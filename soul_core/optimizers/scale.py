"""The scale of the curvature that leaves a given fraction of the weights unclipped.

The minimum of m'u + 1/2 gamma u' diag(h) u over the box |u_i| <= 1 is u_i = -clip(m_i / (gamma h_i), -1, 1): Sophia's
step. gamma is the price of curvature against descent. As gamma grows from zero, the constraints |u_i| <= 1 become
inactive one by one, weight i at gamma = |m_i| / h_i. A fraction f of the weights is therefore unclipped exactly when
gamma is the f-quantile of |m| / h. Chosen so, the step does not change when the loss, the momentum (a clipped gradient)
or h (the number of positions, the loss's reduction) is multiplied by a constant.

Ours; the paper has a constant gamma that its authors tune to 10 to 50% of unclipped weights (arXiv:2305.14342,
section 3.1).
"""

from collections.abc import Sequence

import torch

#: Weights whose ratio is looked at: the quantile of more changes in the third digit only.
NUM_SAMPLED_WEIGHTS = 1 << 20


def choose_gamma(momenta: Sequence[torch.Tensor], curvatures: Sequence[torch.Tensor], target_unclipped: float) -> float:
    """Return the `target_unclipped`-quantile of |m| / h over the weights with momentum; 1 if it is not finite.

    Weights without curvature are clipped under any gamma: they count as the largest ratios. Where they are so many that
    the quantile falls among them, the largest finite ratio is returned.

    Args:
        momenta: One tensor per parameter.
        curvatures: h, like `momenta`.
        target_unclipped: Between 0 and 1.
    """
    stride = _find_stride(sum(momentum.numel() for momentum in momenta))
    ratios = [
        _compute_ratios(m.reshape(-1)[::stride].abs(), h.reshape(-1)[::stride])
        for m, h in zip(momenta, curvatures, strict=True)
    ]
    ratio_S = torch.cat(ratios).sort().values
    num_finite = int(ratio_S.isfinite().sum())
    if not num_finite:
        return 1.0  # no curvature yet: a sign step under any gamma
    place = min(int(target_unclipped * len(ratio_S)), num_finite - 1)
    return float(ratio_S[place])


def _compute_ratios(size_S: torch.Tensor, h_S: torch.Tensor) -> torch.Tensor:
    """Return |m| / h where there is momentum; infinity where h is not positive."""
    has_momentum_S = size_S > 0
    size_S, h_S = size_S[has_momentum_S], h_S[has_momentum_S]
    return torch.where(h_S > 0, size_S / h_S, torch.inf)


def _find_stride(num_weights: int) -> int:
    """Return a prime step through the weights, so that every row and column of a matrix is met."""
    stride = max(1, -(-num_weights // NUM_SAMPLED_WEIGHTS))
    while stride > 1 and any(stride % factor == 0 for factor in range(2, int(stride**0.5) + 1)):
        stride += 1
    return stride
