"""Stay near the base model on the retain set.

Source: the KL term of TOFU (arXiv:2401.06121, section 4) and NPO+KL (arXiv:2404.05868).
Differs from the released SOUL code, which leaves out the base model's entropy: that is a cross-entropy, never zero.
Shapes: P supervised positions, V vocabulary size.
"""

import torch
from torch.nn.functional import kl_div, log_softmax

from soul_core.objectives.terms import TermInputs
from soul_core.spec.terms import Kl


def kl(inputs: TermInputs, spec: Kl) -> torch.Tensor:
    """Return the mean over supervised positions of KL(base || model), in nats."""
    base_PV = inputs.base_scores["retain"].logits_PV
    assert base_PV is not None
    model_PV = log_softmax(inputs.scores["retain"].logits_PV, dim=-1)
    total = kl_div(model_PV, log_softmax(base_PV, dim=-1), reduction="sum", log_target=True)
    return total / inputs.totals["retain"].num_tokens
