"""Gradient ascent on the forget set.

Source: TOFU (Maini et al. 2024, arXiv:2401.06121, section 4), "gradient difference" together with `nll`.
The mean is over the step's answer tokens, as a causal language model's own loss takes it.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec_terms import GradDiff


def grad_diff(inputs: TermInputs, spec: GradDiff) -> torch.Tensor:
    """Return minus the mean NLL of the forget answers. Unbounded below: it diverges when run too long."""
    return token_mean(inputs.scores["forget"].logp_P, inputs.totals["forget"])
