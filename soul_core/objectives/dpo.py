"""Direct preference optimization of a refusal over the answer to forget.

Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7, with refusals as preferred answers, as in TOFU
(arXiv:2401.06121) and NPO (arXiv:2404.05868).
Differs from the DPO paper: the factor 2/beta, so that the loss has the scale of `npo`, which is this loss without a
preferred answer.
Shapes: B sequences.
"""

import torch
from torch.nn.functional import logsigmoid

from soul_core.objectives.terms import ExampleGroup, TermInputs, sequence_mean
from soul_core.spec.terms import Dpo


def dpo(inputs: TermInputs, spec: Dpo) -> torch.Tensor:
    """Return the mean loss over pairs of a refusal and the answer to forget."""
    return preference_loss(inputs, "refusal", spec.beta)


def preference_loss(inputs: TermInputs, winner: ExampleGroup, beta: float) -> torch.Tensor:
    """Return the mean of -(2/beta) log sigmoid(beta * margin), the margin of `winner` over the answers to forget."""
    margin_B = _log_ratio_B(inputs, winner) - _log_ratio_B(inputs, "forget")
    loss_B = -(2 / beta) * logsigmoid(beta * margin_B)
    return sequence_mean(loss_B, inputs.totals["forget"])


def _log_ratio_B(inputs: TermInputs, group: ExampleGroup) -> torch.Tensor:
    """Return log(pi/pi_ref) of complete answers, (B): sums, not token means."""
    base_logp_B = inputs.base_scores[group].sequence_logp_B
    assert base_logp_B is not None
    return inputs.scores[group].sequence_logp_B - base_logp_B
