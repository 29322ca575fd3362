"""Gradient ascent on the forget set: the term of both `gradient_ascent` and `grad_diff`.

Source: Jang et al. 2022, arXiv:2210.01504 (ascent on the forget set); TOFU (Maini et al. 2024, arXiv:2401.06121,
section 4), whose "gradient difference" is this term with the retain term `nll`.
The mean is over the step's answer tokens, as in a causal language model's own loss.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import GradDiff, GradientAscent


def gradient_ascent(inputs: TermInputs, spec: GradientAscent | GradDiff) -> torch.Tensor:
    """Return minus the mean NLL of the forget answers, in nats. Unbounded below: a long run diverges."""
    return token_mean(inputs.scores["forget"].logp_P, inputs.totals["forget"])
