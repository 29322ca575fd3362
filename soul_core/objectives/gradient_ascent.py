"""Gradient ascent on the forget set: the term of both `gradient_ascent` and `grad_diff`.

Source: Jang et al. 2022, arXiv:2210.01504 (ascent on what is to be forgotten); TOFU (Maini et al. 2024,
arXiv:2401.06121, section 4), whose "gradient difference" is this term together with `nll`.
The mean is over the step's answer tokens, as a causal language model's own loss takes it.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import GradDiff, GradientAscent


def gradient_ascent(inputs: TermInputs, spec: GradientAscent | GradDiff) -> torch.Tensor:
    """Return minus the mean NLL of the forget answers. Unbounded below: it diverges when run too long."""
    return token_mean(inputs.scores["forget"].logp_P, inputs.totals["forget"])
