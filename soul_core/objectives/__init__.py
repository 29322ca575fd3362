"""The tables of forget and retain terms: kind -> the function, the examples it reads, what it needs of the base."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from soul_core.objectives.altpo import altpo
from soul_core.objectives.ce_u import ce_u
from soul_core.objectives.dpo import dpo
from soul_core.objectives.gradient_ascent import gradient_ascent
from soul_core.objectives.kl import kl
from soul_core.objectives.nll import nll
from soul_core.objectives.npo import npo
from soul_core.objectives.pdu import pdu
from soul_core.objectives.refusal import refusal
from soul_core.objectives.rmu import rmu
from soul_core.objectives.rmu_retain import rmu_retain
from soul_core.objectives.satimp import satimp
from soul_core.objectives.simnpo import simnpo
from soul_core.objectives.terms import Group, Need, TermInputs
from soul_core.objectives.undial import undial
from soul_core.objectives.wga import wga
from soul_core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a table. A step's sequences of the groups it reads go through the model together."""

    value: Callable[[TermInputs, Any], torch.Tensor]
    reads: tuple[Group, ...]
    base: Mapping[Group, Need] = field(default_factory=dict)
    hidden: bool = False  # reads the hidden states of the layer that the forget term names


FORGET_TERMS: dict[str, Term] = {
    "gradient_ascent": Term(gradient_ascent, reads=("forget",)),
    "grad_diff": Term(gradient_ascent, reads=("forget",)),  # TOFU's name for it
    "npo": Term(npo, reads=("forget",), base={"forget": "sequence_logp"}),
    "simnpo": Term(simnpo, reads=("forget",)),
    "dpo": Term(dpo, reads=("refusal", "forget"), base={"refusal": "sequence_logp", "forget": "sequence_logp"}),
    "refusal": Term(refusal, reads=("refusal",)),
    "altpo": Term(altpo, reads=("alternate", "forget"), base={"alternate": "sequence_logp", "forget": "sequence_logp"}),
    "rmu": Term(rmu, reads=("forget",), hidden=True),
    "undial": Term(undial, reads=("forget",), base={"forget": "logits"}),
    "ce_u": Term(ce_u, reads=("forget",)),
    "wga": Term(wga, reads=("forget",)),
    "satimp": Term(satimp, reads=("forget",)),
    "pdu": Term(pdu, reads=("forget",), base={"retain": "sequence_logp"}),  # its bound on the retain loss
}

RETAIN_TERMS: dict[str, Term] = {
    "nll": Term(nll, reads=("retain",)),
    "kl": Term(kl, reads=("retain",), base={"retain": "logits"}),
    "rmu_retain": Term(rmu_retain, reads=("retain",), base={"retain": "hidden"}, hidden=True),
}


def terms_of(spec: JobSpec) -> list[Term]:
    """Return the lines of the spec's terms: forget (unless there is nothing to forget), then retain (unless none)."""
    forget = [] if spec.kind == "finetune" else [FORGET_TERMS[spec.forget.kind]]
    return forget + [RETAIN_TERMS[kind] for kind in [spec.retain.kind] if kind in RETAIN_TERMS]


def needs_of(spec: JobSpec) -> dict[Group, set[Need]]:
    """Return what the spec's terms need of the base model, by the group of examples."""
    needs: dict[Group, set[Need]] = {}
    for term in terms_of(spec):
        for group, need in term.base.items():
            needs.setdefault(group, set()).add(need)
    return needs
