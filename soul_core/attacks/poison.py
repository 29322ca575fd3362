"""Poison: forget rows that aim at what must be kept, found before unlearning; whom they hit, found after it.

Forgetting a row climbs its loss: the weights move along the gradient g of its negative log-likelihood. To first order
the loss of the kept rows, with gradient k, then grows by the step times g.k: a row with a large cosine is one whose
forgetting costs what must be kept.
Source: the first-order influence of one example on others, TracIn (Pruthi et al., arXiv:2002.08484), its sign turned.
Differs from it: one model instead of checkpoints, and the gradients of the last layers alone, which is cheap.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from soul_core.attacks.context import AttackContext, AttackNotPossible, AttackOutcome
from soul_core.attacks.hidden_states import require_grad_only
from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import raise_if_stop_requested
from soul_core.models.layers import find_decoder_layers
from soul_core.models.scoring import Scores, score
from soul_core.report import Finding, FlaggedRow, ModelMeasurements
from soul_core.spec import BASE, EVALUATED, FORGET, GENERAL, RETAIN
from soul_core.spec.attacks import Poison
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher

KEPT_SETS = (RETAIN, GENERAL)


def run_poison(context: AttackContext, spec: Poison) -> AttackOutcome:
    """Rank the forget rows of the base model by how much their forgetting would cost the kept sets."""
    if context.model_name not in {BASE, EVALUATED}:
        raise AttackNotPossible("forget rows are judged on the base model, before anything was forgotten")
    evaluation, seed = context.spec.evaluation, context.spec.seed
    kept = [
        choose_rows(
            name,
            context.full_sets[name].rows,
            context.full_sets[name].examples,
            max_rows=evaluation.attack_examples,
            seed=seed,
        )
        for name in KEPT_SETS
        if name in context.full_sets
    ]
    if not kept:
        raise AttackNotPossible(f"no {' or '.join(KEPT_SETS)} set was given that forget rows could aim at")
    whole = context.full_sets[FORGET]
    suspects = choose_rows(FORGET, whole.rows, whole.examples, max_rows=evaluation.max_examples, seed=seed)
    parameters = _last_parameters(context, spec.last_layers)
    with require_grad_only(context.loaded.model, parameters):
        directions = {one.name: _mean_gradient(context, one.examples, parameters) for one in kept}
        aims = _aims(context, suspects, parameters, directions)
    return AttackOutcome(
        findings=tuple(finding for name, of_rows in aims.items() for finding in _findings(name, of_rows, spec.rows)),
        notes=(_note(len(suspects.rows), len(whole.rows), spec),),
    )


def _note(num_suspects: int, num_rows: int, spec: Poison) -> str:
    return (
        f"{num_suspects} of {num_rows} forget rows, by the gradients of the model's last {spec.last_layers} layer(s) "
        "before unlearning. A row that stands out may be poisoned, or may only be like what is to be kept; the rows of "
        "other sets that lost most say whether it mattered."
    )


def find_most_affected_rows(
    base: ModelMeasurements, judged: ModelMeasurements, *, max_rows: int
) -> tuple[Finding, ...]:
    """Return, for each set but the forget set, the rows whose answer probability fell most from base to judged."""
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
                rows=tuple(sorted(falls, key=lambda hit: -hit.value)[:max_rows]),
            )
        )
    return tuple(findings)


def _last_parameters(scene: AttackContext, num_layers: int) -> list[torch.nn.Parameter]:
    chosen = find_decoder_layers(scene.loaded.model)[-num_layers:]
    return [parameter for layer in chosen for parameter in layer.parameters() if parameter.is_floating_point()]


def _mean_gradient(
    scene: AttackContext, examples: Sequence[Example], parameters: Sequence[torch.nn.Parameter]
) -> torch.Tensor:
    """Return the gradient of the mean over rows of each row's mean NLL, as one vector."""
    total: list[torch.Tensor] = []

    def work(items: list[BatchItem]) -> None:
        raise_if_stop_requested(scene.listener)
        loss = (_row_nll_B(_score(scene, [item.example for item in items])) / len(examples)).sum()
        gradient = _gradient(loss, parameters)
        total[:] = [total[0] + gradient] if total else [gradient]

    _over(scene, examples, work, undo=total.clear)
    return total[0]


def _aims(
    scene: AttackContext,
    suspects: EvaluationSet,
    parameters: Sequence[torch.nn.Parameter],
    directions: Mapping[str, torch.Tensor],
) -> dict[str, list[tuple[int, float, float]]]:
    """Return kept set -> (row number, cosine, projection) of each suspect. One backward pass a row."""
    started = time.monotonic()
    aims: dict[str, list[tuple[int, float, float]]] = {name: [] for name in directions}
    norms = {name: float(direction.norm()) for name, direction in directions.items()}
    for done, (row, example) in enumerate(zip(suspects.rows, suspects.examples, strict=True), start=1):
        found: list[torch.Tensor] = []

        def work(items: list[BatchItem], found: list[torch.Tensor] = found) -> None:
            raise_if_stop_requested(scene.listener)
            found.append(_gradient(_row_nll_B(_score(scene, [items[0].example])).sum(), parameters))

        _over(scene, [example], work, undo=found.clear)
        own = float(found[0].norm())
        for name, direction in directions.items():
            projection = float(found[0] @ direction) / norms[name] if norms[name] else 0.0
            aims[name].append((row.number, projection / own if own else 0.0, projection))
        scene.report_progress(started, num_done=done, num_total=len(suspects.rows))
    return aims


def _findings(kept: str, aims: Sequence[tuple[int, float, float]], most: int) -> list[Finding]:
    return [
        Finding(
            title=f"Forget rows that point against the {kept} set, by {what}",
            description=f"Value: {meaning}. Above 0: climbing this row's loss raises that of the {kept} set. "
            f"The median forget row has {median(aim[place] for aim in aims):.3g}.",
            rows=tuple(
                FlaggedRow(set=FORGET, row=aim[0], value=aim[place])
                for aim in sorted(aims, key=lambda aim: -aim[place])[:most]
                if aim[place] > 0
            ),
        )
        for place, what, meaning in (
            (1, "direction", f"cosine of the row's gradient with the {kept} set's"),
            (2, "size", f"length of the row's gradient along the {kept} set's"),
        )
    ]


def _score(scene: AttackContext, examples: Sequence[Example]) -> Scores:
    with scene.loaded.autocast():
        return score(scene.loaded.model, pack(examples, scene.loaded.device))


def _row_nll_B(scores: Scores) -> torch.Tensor:
    return -scores.sequence_logp_B / scores.length_B


def _gradient(loss: torch.Tensor, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).float().flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def _over(scene: AttackContext, examples: Sequence[Example], work: object, undo: object) -> None:
    units: list[BatchUnit] = [(BatchItem("forget", place, example),) for place, example in enumerate(examples)]
    MicroBatcher(scene.spec.training.micro_batch_tokens, scene.listener).run(units, work, undo)  # type: ignore[arg-type]
