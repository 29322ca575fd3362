"""Continue to learn the retain set.

Source: the retain term of GradDiff in TOFU (arXiv:2401.06121, section 4).
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import Nll


def nll(inputs: TermInputs, spec: Nll) -> torch.Tensor:
    """Return the mean NLL of the retain answers."""
    return -token_mean(inputs.scores["retain"].logp_P, inputs.totals["retain"])
