"""Negative preference optimization.

Source: Zhang et al. 2024, arXiv:2404.05868, equation 3: -(2/beta) E[log sigmoid(-beta log(pi/pi_ref))].
Shapes: B sequences.
"""

import torch
from torch.nn.functional import logsigmoid

from soul_core.objectives.terms import TermInputs, sequence_mean
from soul_core.spec.terms import Npo


def npo(inputs: TermInputs, spec: Npo) -> torch.Tensor:
    """Return the mean over sequences. The ratio is of complete answers (sums, not token means)."""
    base_logp_B = inputs.base_scores["forget"].sequence_logp_B
    assert base_logp_B is not None
    log_ratio_B = inputs.scores["forget"].sequence_logp_B - base_logp_B
    loss_B = -(2 / spec.beta) * logsigmoid(-spec.beta * log_ratio_B)
    return sequence_mean(loss_B, inputs.totals["forget"])
