"""Representation misdirection: steer the hidden states of one layer in a random direction on the forget set.

Source: Li et al. 2024 (WMDP), arXiv:2403.03218, section 4; the squared distance is divided by the width D, as in the
authors' code.
Differs from it: the mean is over the positions that predict the answer, not over the complete text.
Shapes: P supervised positions, D hidden size.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import Rmu


def rmu(inputs: TermInputs, spec: Rmu) -> torch.Tensor:
    """Return the mean squared distance of the forget states to c * u, u a unit vector drawn by the seed."""
    hidden_PD = inputs.scores["forget"].hidden_PD
    assert hidden_PD is not None
    target_D = spec.coefficient * make_control_vector_D(inputs.seed, hidden_PD.shape[1]).to(hidden_PD)
    return token_mean((hidden_PD - target_D).square().mean(dim=1), inputs.totals["forget"])


def choose_layer(spec: Rmu, num_layers: int) -> int:
    """Return the index of the steered layer; `auto` is a quarter of the way up, as the paper's 7 of 32."""
    return max(0, round(num_layers / 4) - 1) if spec.layer == "auto" else spec.layer


def make_control_vector_D(seed: int, hidden_size: int) -> torch.Tensor:
    """Return the unit vector u (D), from uniform numbers in [0, 1) as in the authors' code."""
    uniform_D = torch.rand(hidden_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return uniform_D / uniform_D.norm()
