"""Simple negative preference optimization: NPO by the mean log-probability, without a base model.

Source: Fan et al. 2024, arXiv:2410.07163, equation 4; delta is its reward margin gamma.
Differs from the paper: beta multiplies the margin too, as in the released code (with delta 0 they are equal).
Shapes: B sequences.
"""

import torch
from torch.nn.functional import logsigmoid

from soul_core.objectives.terms import TermInputs, sequence_mean
from soul_core.spec.terms import SimNpo


def simnpo(inputs: TermInputs, spec: SimNpo) -> torch.Tensor:
    """Return the mean over sequences. Each enters by its NLL per token, so its length does not matter."""
    scores = inputs.scores["forget"]
    mean_nll_B = -scores.sequence_logp_B / scores.length_B
    loss_B = -(2 / spec.beta) * logsigmoid(spec.beta * (mean_nll_B - spec.delta))
    return sequence_mean(loss_B, inputs.totals["forget"])
