"""Alternate preference optimization: other plausible answers over the ones to forget.

Source: Mekala et al. 2024, arXiv:2409.13474. The alternates are the model's own (`preparation`).
Differs from it: one alternate an answer where the authors make five. The factor 2/beta is in their code too.
"""

import torch

from soul_core.objectives.dpo import preference_loss
from soul_core.objectives.terms import TermInputs
from soul_core.spec.terms import AltPo


def altpo(inputs: TermInputs, spec: AltPo) -> torch.Tensor:
    """Return the mean over pairs of an alternate answer and the answer to forget."""
    return preference_loss(inputs, "alternate", spec.beta)
