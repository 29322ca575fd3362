"""Learn the base model's own distribution with a lower logit of the memorized token.

Source: Dong et al. 2024, arXiv:2402.10052: targets softmax(z_ref - beta * onehot(y)), fixed for the run.
Shapes: P supervised positions, V vocabulary size.
"""

import torch
from torch.nn.functional import cross_entropy

from soul_core.objectives.terms import TermInputs
from soul_core.spec.terms import Undial


def undial(inputs: TermInputs, spec: Undial) -> torch.Tensor:
    """Return the mean cross-entropy to the adjusted distribution at the answer positions, in nats."""
    scores, base_PV = inputs.scores["forget"], inputs.base_scores["forget"].logits_PV
    assert base_PV is not None
    penalty_P1 = torch.full_like(scores.labels_P[:, None], -1, dtype=base_PV.dtype) * spec.beta
    target_PV = base_PV.scatter_add(1, scores.labels_P[:, None], penalty_P1).softmax(dim=-1)
    return cross_entropy(scores.logits_PV, target_PV, reduction="sum") / inputs.totals["forget"].num_tokens
