"""Cross-entropy unlearning: learn the model's own distribution with the label taken out.

Source: Yang 2025, arXiv:2503.01224: targets are the softmax of the logits with the label's at minus infinity, without
gradient. The first token of an answer is left out, as in the paper's training settings.
Shapes: P supervised positions, V vocabulary size.
"""

import torch
from torch.nn.functional import cross_entropy

from soul_core.objectives.terms import TermInputs
from soul_core.spec.terms import CeU


def ce_u(inputs: TermInputs, spec: CeU) -> torch.Tensor:
    """Return the mean cross-entropy to the model's distribution over the other tokens, in nats."""
    scores, totals = inputs.scores["forget"], inputs.totals["forget"]
    target_PV = scores.logits_PV.detach().scatter(1, scores.labels_P[:, None], -torch.inf).softmax(dim=-1)
    loss_P = cross_entropy(scores.logits_PV, target_PV, reduction="none")
    if not spec.skip_first_token:
        return loss_P.sum() / totals.num_tokens
    is_first_P = torch.ones_like(scores.sequence_P, dtype=torch.bool)
    is_first_P[1:] = scores.sequence_P[1:] != scores.sequence_P[:-1]
    num_counted = totals.num_tokens - totals.num_sequences  # every answer has a first token
    return loss_P.masked_fill(is_first_P, 0.0).sum() / max(1, num_counted)
