"""Learn what to say instead of a forgotten answer, in addition to any forget term.

Source: this project. The term is the NLL of TOFU's IDK baseline (arXiv:2401.06121, section 4); here it is a part of the
sum with a forget term, which alone leaves noise, as it alone hides the answer more than it removes it.
"""

import torch

from soul_core.objectives.terms import TermInputs, token_mean
from soul_core.spec.after import Neutral, Refuse, Unknown


def after(inputs: TermInputs, spec: Refuse | Unknown | Neutral) -> torch.Tensor:
    """Return the mean NLL of the wanted answers, in nats per token."""
    return -token_mean(inputs.scores["after"].logp_P, inputs.totals["after"])
