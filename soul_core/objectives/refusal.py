"""Learn a refusal instead of the answer.

Source: the IDK baseline of TOFU (arXiv:2401.06121, section 4), which SOUL (arXiv:2404.18239, section 3) calls PO.
Differs from the released SOUL code: the refusal's own tokens are supervised, not the positions of the old answer.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.terms import Refusal


def refusal(inputs: TermInputs, spec: Refusal) -> torch.Tensor:
    """Return the mean NLL of the refusals, in nats per token."""
    return -token_mean(inputs.scores["refusal"].logp_P, inputs.totals["refusal"])
