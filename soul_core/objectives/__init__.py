"""The tables of forget and retain terms: kind -> the function, the examples it reads, what it needs of the base."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from soul_core.objectives.grad_diff import grad_diff
from soul_core.objectives.kl import kl
from soul_core.objectives.nll import nll
from soul_core.objectives.npo import npo
from soul_core.objectives.refusal import refusal
from soul_core.objectives.terms import Group, TermInputs


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a table."""

    value: Callable[[TermInputs, Any], torch.Tensor]
    reads: tuple[Group, ...]
    reference: Literal["sequence_logp", "logits"] | None = None


FORGET_TERMS: dict[str, Term] = {
    "grad_diff": Term(grad_diff, reads=("forget",)),
    "npo": Term(npo, reads=("forget",), reference="sequence_logp"),
    "refusal": Term(refusal, reads=("refusal",)),
}

RETAIN_TERMS: dict[str, Term] = {
    "nll": Term(nll, reads=("retain",)),
    "kl": Term(kl, reads=("retain",), reference="logits"),
}
