"""Poison: forget rows that damage the retain set when they are unlearned; found before, and the damaged rows after.

Unlearning a row increases its loss: the weights move along the gradient g of its negative log-likelihood. To first
order the loss of the retain rows, with gradient k, then grows by the step times g.k: a row with a large cosine is one
whose unlearning damages the retain set.
Source: the first-order influence of one example on others, TracIn (Pruthi et al., arXiv:2002.08484), opposite sign.
Differs from it: one model instead of checkpoints, and the gradients of the last layers alone, which is cheap.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch

from soul_core.attacks.context import AttackContext, AttackNotPossible
from soul_core.attacks.hidden_states import require_grad_only
from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import raise_if_stop_requested
from soul_core.models.layers import find_decoder_layers
from soul_core.models.scoring import Scores, score
from soul_core.report import Finding, FlaggedRow, ModelMeasurements
from soul_core.spec import BASE, EVALUATED, FORGET, GENERAL, RETAIN
from soul_core.spec.attacks import Poison
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher

#: Sets that unlearning must not damage.
PROTECTED_SETS = (RETAIN, GENERAL)


class _Alignment(NamedTuple):
    """A forget row's gradient against the mean gradient of a protected set."""

    row: int
    cosine: float
    projection: float
    """Length of the row's gradient along the set's."""


def run_poison(context: AttackContext, spec: Poison) -> AttackOutcome:
    """Rank the forget rows of the base model by how much their unlearning would damage the protected sets."""
    if context.model_name not in {BASE, EVALUATED}:
        raise AttackNotPossible("forget rows are judged on the base model, before unlearning")
    evaluation, seed = context.spec.evaluation, context.spec.seed
    protected = [
        choose_rows(name, full_set.rows, full_set.examples, max_rows=evaluation.attack_examples, seed=seed)
        for name in PROTECTED_SETS
        if (full_set := context.full_sets.get(name))
    ]
    if not protected:
        raise AttackNotPossible(f"no {' or '.join(PROTECTED_SETS)} set was given that forget rows could damage")
    forget_set = context.full_sets[FORGET]
    suspects = choose_rows(FORGET, forget_set.rows, forget_set.examples, max_rows=evaluation.max_examples, seed=seed)
    last_layers = list(find_decoder_layers(context.loaded.model))[-spec.last_layers :]
    parameters = [
        parameter for layer in last_layers for parameter in layer.parameters() if parameter.is_floating_point()
    ]
    with require_grad_only(context.loaded.model, parameters):
        directions = {
            selection.name: _compute_mean_gradient(context, selection.examples, parameters) for selection in protected
        }
        alignments = _compute_alignments(context, suspects, parameters, directions)
    note = (
        f"{len(suspects.rows)} of {len(forget_set.rows)} forget rows, by the gradients of the model's last "
        f"{spec.last_layers} layer(s) before unlearning. A row that stands out may be poisoned, or may only resemble "
        "the protected set; the rows of other sets that lost most show whether it mattered."
    )
    return AttackOutcome(
        findings=tuple(
            finding for name, of_rows in alignments.items() for finding in _make_findings(name, of_rows, spec.rows)
        ),
        notes=(note,),
    )


def find_most_affected_rows(
    base: ModelMeasurements, judged: ModelMeasurements, *, max_rows: int
) -> tuple[Finding, ...]:
    """Return, for each set except the forget set, the rows whose answer probability fell most from base to judged."""
    findings = []
    for name, metrics in judged.sets.items():
        before = base.sets.get(name, {}).get("probability")
        after = metrics.get("probability")
        rows = judged.rows.get(name)
        if name == FORGET or not (before and after and before.per_example and after.per_example and rows):
            continue
        if base.rows.get(name) != rows:
            continue
        falls = [
            FlaggedRow(set=name, row=row, value=old - new)
            for row, old, new in zip(rows, before.per_example, after.per_example, strict=True)
            if old is not None and new is not None and old > new
        ]
        findings.append(
            Finding(
                title=f"Rows of the {name} set that lost most",
                description=f"Value: fall of the answer's probability from the base model. {len(falls)} of {len(rows)} "
                "measured rows lost any.",
                rows=tuple(sorted(falls, key=lambda flagged: -flagged.value)[:max_rows]),
            )
        )
    return tuple(findings)


def _compute_mean_gradient(
    context: AttackContext, examples: Sequence[Example], parameters: Sequence[torch.nn.Parameter]
) -> torch.Tensor:
    """Return the gradient of the mean over rows of each row's mean NLL, as one vector."""
    total: list[torch.Tensor] = []

    def add_gradient(items: list[BatchItem]) -> None:
        raise_if_stop_requested(context.listener)
        row_nll_B = _compute_row_nll(_score(context, [item.example for item in items]))
        gradient = _compute_gradient((row_nll_B / len(examples)).sum(), parameters)
        total[:] = [total[0] + gradient] if total else [gradient]

    _run_in_micro_batches(context, examples, add_gradient, undo=total.clear)
    return total[0]


def _compute_alignments(
    context: AttackContext,
    suspects: EvaluationSet,
    parameters: Sequence[torch.nn.Parameter],
    directions: Mapping[str, torch.Tensor],
) -> dict[str, list[_Alignment]]:
    """Return protected set -> alignment of each suspect. One backward pass per row."""
    started_at = time.monotonic()
    alignments: dict[str, list[_Alignment]] = {name: [] for name in directions}
    norms = {name: float(direction.norm()) for name, direction in directions.items()}
    for num_done, (row, example) in enumerate(zip(suspects.rows, suspects.examples, strict=True), start=1):
        gradients: list[torch.Tensor] = []

        def add_gradient(items: list[BatchItem], gradients: list[torch.Tensor] = gradients) -> None:
            raise_if_stop_requested(context.listener)
            row_nll_B = _compute_row_nll(_score(context, [items[0].example]))
            gradients.append(_compute_gradient(row_nll_B.sum(), parameters))

        _run_in_micro_batches(context, [example], add_gradient, undo=gradients.clear)
        norm = float(gradients[0].norm())
        for name, direction in directions.items():
            projection = float(gradients[0] @ direction) / norms[name] if norms[name] else 0.0
            alignments[name].append(_Alignment(row.number, projection / norm if norm else 0.0, projection))
        context.report_progress(started_at, num_done=num_done, num_total=len(suspects.rows))
    return alignments


def _make_findings(set_name: str, alignments: Sequence[_Alignment], max_rows: int) -> list[Finding]:
    cosines = {alignment.row: alignment.cosine for alignment in alignments}
    projections = {alignment.row: alignment.projection for alignment in alignments}
    return [
        Finding(
            title=f"Forget rows that point against the {set_name} set, by {measure}",
            description=f"Value: {meaning}. Above 0: unlearning this row increases the loss of the {set_name} set. "
            f"The median forget row has {median(values.values()):.3g}.",
            rows=tuple(
                FlaggedRow(set=FORGET, row=row, value=value)
                for row, value in sorted(values.items(), key=lambda row_value: -row_value[1])[:max_rows]
                if value > 0
            ),
        )
        for values, measure, meaning in (
            (cosines, "direction", f"cosine of the row's gradient with the {set_name} set's"),
            (projections, "size", f"length of the row's gradient along the {set_name} set's"),
        )
    ]


def _score(context: AttackContext, examples: Sequence[Example]) -> Scores:
    with context.loaded.autocast():
        return score(context.loaded.model, pack(examples, context.loaded.device))


def _compute_row_nll(scores: Scores) -> torch.Tensor:
    """Return the mean NLL per token of each row, (B,)."""
    return -scores.sequence_logp_B / scores.length_B


def _compute_gradient(loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return the gradient as one float32 vector."""
    gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).float().flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def _run_in_micro_batches(
    context: AttackContext,
    examples: Sequence[Example],
    work: Callable[[list[BatchItem]], None],
    undo: Callable[[], None],
) -> None:
    units: list[BatchUnit] = [(BatchItem("forget", index, example),) for index, example in enumerate(examples)]
    MicroBatcher(context.spec.training.micro_batch_tokens, context.listener).run(units, work, undo)
