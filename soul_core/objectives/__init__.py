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
from soul_core.objectives.terms import BaseScoreKind, ExampleGroup, TermInputs
from soul_core.objectives.undial import undial
from soul_core.objectives.wga import wga
from soul_core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a table. A step's sequences of the groups it reads go through the model together."""

    loss_fn: Callable[[TermInputs, Any], torch.Tensor]
    groups: tuple[ExampleGroup, ...]
    base_scores: Mapping[ExampleGroup, BaseScoreKind] = field(default_factory=dict)
    reads_hidden_states: bool = False  # reads the hidden states of the layer that the forget term names


FORGET_TERMS: dict[str, Term] = {
    "gradient_ascent": Term(gradient_ascent, groups=("forget",)),
    "grad_diff": Term(gradient_ascent, groups=("forget",)),  # TOFU's name for it
    "npo": Term(npo, groups=("forget",), base_scores={"forget": "sequence_logp"}),
    "simnpo": Term(simnpo, groups=("forget",)),
    "dpo": Term(dpo, groups=("refusal", "forget"), base_scores={"refusal": "sequence_logp", "forget": "sequence_logp"}),
    "refusal": Term(refusal, groups=("refusal",)),
    "altpo": Term(
        altpo, groups=("alternate", "forget"), base_scores={"alternate": "sequence_logp", "forget": "sequence_logp"}
    ),
    "rmu": Term(rmu, groups=("forget",), reads_hidden_states=True),
    "undial": Term(undial, groups=("forget",), base_scores={"forget": "logits"}),
    "ce_u": Term(ce_u, groups=("forget",)),
    "wga": Term(wga, groups=("forget",)),
    "satimp": Term(satimp, groups=("forget",)),
    "pdu": Term(pdu, groups=("forget",), base_scores={"retain": "sequence_logp"}),  # its bound on the retain loss
}

RETAIN_TERMS: dict[str, Term] = {
    "nll": Term(nll, groups=("retain",)),
    "kl": Term(kl, groups=("retain",), base_scores={"retain": "logits"}),
    "rmu_retain": Term(rmu_retain, groups=("retain",), base_scores={"retain": "hidden"}, reads_hidden_states=True),
}


def get_terms(spec: JobSpec) -> list[Term]:
    """Return the lines of the spec's terms: forget (unless there is nothing to forget), then retain (unless none)."""
    forget = [] if spec.kind == "finetune" else [FORGET_TERMS[spec.forget.kind]]
    return forget + [RETAIN_TERMS[kind] for kind in [spec.retain.kind] if kind in RETAIN_TERMS]


def collect_base_score_kinds(spec: JobSpec) -> dict[ExampleGroup, set[BaseScoreKind]]:
    """Return what the spec's terms need of the base model, by the group of examples."""
    needs: dict[ExampleGroup, set[BaseScoreKind]] = {}
    for term in get_terms(spec):
        for group, need in term.base_scores.items():
            needs.setdefault(group, set()).add(need)
    return needs
