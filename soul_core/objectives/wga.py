"""Weighted gradient ascent: each token by a power of its present probability.

Source: Wang et al. 2025, arXiv:2502.19301 (WGA): the gradient of log p grows as 1/p while p falls; the weight p^alpha,
itself without gradient, cancels that, so ascent ends by itself.
Shapes: P supervised positions.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import Wga


def wga(inputs: TermInputs, spec: Wga) -> torch.Tensor:
    """Return minus the mean of p^alpha * NLL over the answer tokens."""
    logp_P = inputs.scores["forget"].logp_P
    weight_P = logp_P.detach().exp() ** spec.alpha
    return token_mean(weight_P * logp_P, inputs.totals["forget"])
