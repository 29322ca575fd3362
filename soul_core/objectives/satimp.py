"""Gradient ascent by saturation and importance of each token.

Source: Yang et al. 2025, arXiv:2505.11953, section 5: p^beta1 lowers the weight of tokens that are forgotten already
(saturation), (1-p)^beta2 that of tokens that are certain in any text (importance). Weights have no gradient.
Shapes: P supervised positions.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import SatImp


def satimp(inputs: TermInputs, spec: SatImp) -> torch.Tensor:
    """Return minus the mean of p^beta1 * (1-p)^beta2 * NLL over the answer tokens."""
    logp_P = inputs.scores["forget"].logp_P
    detached_P = logp_P.detach()
    weight_P = (spec.beta1 * detached_P).exp() * (-torch.expm1(detached_P)).clamp(min=0) ** spec.beta2
    return token_mean(weight_P * logp_P, inputs.totals["forget"])
