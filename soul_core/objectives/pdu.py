"""Primal-dual unlearning: flat logits on the forget set under a bound on the retain loss, whose weight is learned.

Source: Entesari et al. 2025, arXiv:2506.05314: the logit-margin flattening loss, and the primal-dual updates by which
the retain term's weight, a dual variable, grows while the retain loss is over its bound.
Differs from it: the bound is the base model's loss on the same examples plus a slack, instead of one number for all
examples; margins are averaged over answer positions, while the authors' code includes prompt and padding.
Shapes: P supervised positions, V vocabulary size.
"""

import torch

from soul_core.objectives.terms import DualSettings, TermInputs, token_mean
from soul_core.spec.terms import Pdu


def pdu(inputs: TermInputs, spec: Pdu) -> torch.Tensor:
    """Return the mean over answer tokens of (largest logit - mean logit)^2; zero if all logits are equal."""
    logits_PV = inputs.scores["forget"].logits_PV
    margin_P = logits_PV.amax(dim=-1) - logits_PV.mean(dim=-1)
    return token_mean(margin_P.square(), inputs.totals["forget"])


def make_dual_settings(spec: Pdu) -> DualSettings:
    """Return how the retain term's weight moves."""
    return DualSettings(spec.dual_start, spec.dual_step, spec.slack, spec.dual_warmup)
