"""Keep the hidden states that `rmu` steers near the base model's on the retain set.

Source: Li et al. 2024 (WMDP), arXiv:2403.03218, section 4; divided by the width D, as in the authors' code.
Differs from it: the mean is over the positions that predict the answer, not over the complete text.
Shapes: P supervised positions, D hidden size.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import RmuRetain


def rmu_retain(inputs: TermInputs, spec: RmuRetain) -> torch.Tensor:
    """Return the mean squared distance of the retain states to the base model's."""
    hidden_PD, base_PD = inputs.scores["retain"].hidden_PD, inputs.base_scores["retain"].hidden_PD
    assert hidden_PD is not None
    assert base_PD is not None
    return token_mean((hidden_PD - base_PD).square().mean(dim=1), inputs.totals["retain"])
