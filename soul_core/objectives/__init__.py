"""The tables of forget and retain terms: kind -> the function and everything the engine must prepare for it."""

from typing import Any, NamedTuple

from torch.nn import Module
from transformers import PreTrainedModel

from soul_core.errors import BadSpec
from soul_core.models.layers import find_decoder_layers
from soul_core.objectives.after import after
from soul_core.objectives.alternative_answers import (
    check_alternates,
    check_refusals,
    make_alternate_examples,
    make_refusal_examples,
)
from soul_core.objectives.altpo import altpo
from soul_core.objectives.ce_u import ce_u
from soul_core.objectives.dpo import dpo
from soul_core.objectives.gradient_ascent import gradient_ascent
from soul_core.objectives.kl import kl
from soul_core.objectives.nll import nll
from soul_core.objectives.npo import npo
from soul_core.objectives.pdu import make_dual_settings, pdu
from soul_core.objectives.refusal import refusal
from soul_core.objectives.rmu import choose_layer, rmu
from soul_core.objectives.rmu_retain import rmu_retain
from soul_core.objectives.satimp import satimp
from soul_core.objectives.simnpo import simnpo
from soul_core.objectives.terms import BaseScoreKind, ExampleGroup, Term, TermPart
from soul_core.objectives.undial import undial
from soul_core.objectives.wga import wga
from soul_core.spec import JobSpec

FORGET_TERMS: dict[str, Term] = {
    "gradient_ascent": Term(gradient_ascent, groups=("forget",)),
    "grad_diff": Term(gradient_ascent, groups=("forget",)),  # TOFU's name for it
    "npo": Term(npo, groups=("forget",), base_scores={"forget": "sequence_logp"}),
    "simnpo": Term(simnpo, groups=("forget",)),
    "dpo": Term(
        dpo,
        groups=("refusal", "forget"),
        base_scores={"refusal": "sequence_logp", "forget": "sequence_logp"},
        make_examples={"refusal": make_refusal_examples},
        check=check_refusals,
    ),
    "refusal": Term(
        refusal, groups=("refusal",), make_examples={"refusal": make_refusal_examples}, check=check_refusals
    ),
    "altpo": Term(
        altpo,
        groups=("alternate", "forget"),
        base_scores={"alternate": "sequence_logp", "forget": "sequence_logp"},
        make_examples={"alternate": make_alternate_examples},
        check=check_alternates,
    ),
    "rmu": Term(rmu, groups=("forget",), layer=choose_layer),
    "undial": Term(undial, groups=("forget",), base_scores={"forget": "logits"}),
    "ce_u": Term(ce_u, groups=("forget",)),
    "wga": Term(wga, groups=("forget",)),
    "satimp": Term(satimp, groups=("forget",)),
    # its bound on the retain loss depends on the base model's
    "pdu": Term(pdu, groups=("forget",), base_scores={"retain": "sequence_logp"}, dual=make_dual_settings),
}

RETAIN_TERMS: dict[str, Term] = {
    "nll": Term(nll, groups=("retain",)),
    "kl": Term(kl, groups=("retain",), base_scores={"retain": "logits"}, is_zero_at_base=True),
    "rmu_retain": Term(rmu_retain, groups=("retain",), base_scores={"retain": "hidden"}, is_zero_at_base=True),
}


#: What is learned on the forget prompts in addition to the forget term; the kinds differ in their texts.
AFTER_TERMS: dict[str, Term] = dict.fromkeys(
    ("refuse", "unknown", "neutral"),
    Term(after, groups=("after",), make_examples={"after": make_refusal_examples}, check=check_refusals),
)


class ActiveTerm(NamedTuple):
    """A term that a job uses, with its settings."""

    term: Term
    spec: Any


def get_terms(spec: JobSpec) -> dict[TermPart, ActiveTerm]:
    """Return the terms of a job: no forget term in a fine-tuning, no other term where the spec has none."""
    terms: dict[TermPart, ActiveTerm] = {}
    if spec.kind != "finetune":
        terms["forget"] = ActiveTerm(FORGET_TERMS[spec.forget.kind], spec.forget)
    if spec.after.kind in AFTER_TERMS:
        terms["after"] = ActiveTerm(AFTER_TERMS[spec.after.kind], spec.after)
    if spec.retain.kind in RETAIN_TERMS:
        terms["retain"] = ActiveTerm(RETAIN_TERMS[spec.retain.kind], spec.retain)
    return terms


def collect_base_score_kinds(spec: JobSpec) -> dict[ExampleGroup, set[BaseScoreKind]]:
    """Return the base scores that the job's terms read, by group of examples."""
    kinds: dict[ExampleGroup, set[BaseScoreKind]] = {}
    for active in get_terms(spec).values():
        for group, kind in active.term.base_scores.items():
            kinds.setdefault(group, set()).add(kind)
    return kinds


def find_steered_layer(model: PreTrainedModel, spec: JobSpec) -> Module | None:
    """Return the layer whose hidden states the job's terms read, or None if no term reads any.

    Raises:
        BadSpec: The model has fewer layers than the spec names.
        LayersNotFoundError: The model has no list of layers.
    """
    for part, active in get_terms(spec).items():
        if active.term.layer is None:
            continue
        layers = find_decoder_layers(model)
        index = active.term.layer(active.spec, len(layers))
        if index >= len(layers):
            raise BadSpec(f"{part}.layer: the model has layers 0 to {len(layers) - 1}, and no layer {index}")
        return layers[index]
    return None
