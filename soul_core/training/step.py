"""The gradients of a step: of the total loss, and of the NLL against true or sampled labels.

Shapes: P supervised positions of a micro-batch, V vocabulary size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from soul_core.data.packing import pack
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import Scores, score
from soul_core.objectives import find_steered_layer, get_terms
from soul_core.objectives.terms import ExampleGroup, TermInputs, Totals
from soul_core.optimizers.curvature import sample_labels
from soul_core.spec import JobKind, JobSpec
from soul_core.training.base_scores import BaseScores
from soul_core.training.latent import PerturbedLayer, find_worst_perturbation, perturb_outputs
from soul_core.training.micro_batching import BatchItem, BatchUnit, MicroBatcher


@dataclass(slots=True)
class Losses:
    """The loss of a step and its parts, summed over the micro-batches."""

    total: float = 0.0
    forget: float = 0.0
    retain: float = 0.0
    after: float | None = None
    """None where the job has no such term."""

    def get_term_losses(self, kind: JobKind) -> dict[str, float]:
        """Return the parts as points of their curves; a fine-tuning has no parts."""
        if kind == "finetune":
            return {}
        after = {} if self.after is None else {"after_loss": self.after}
        return {"forget_loss": self.forget, "retain_loss": self.retain, **after}


def add_gradients(
    loaded: LoadedModel,
    spec: JobSpec,
    units: Sequence[BatchUnit],
    base_scores: BaseScores,
    batcher: MicroBatcher,
    *,
    retain_weight: float | None = None,
) -> Losses:
    """Accumulate the gradient of the total loss over `units` into the parameters; return the losses.

    `retain_weight` replaces the spec's own (see `retain_weight.py`).
    """
    totals = count_totals(units)
    losses = Losses()
    layer = find_steered_layer(loaded.model, spec)

    def work(items: list[BatchItem]) -> None:
        for part in _split_items(items) if spec.latent else [items]:
            packed = pack([item.example for item in part], loaded.device)
            perturbed: list[PerturbedLayer] = []
            if spec.latent and part[0].group != "retain":
                perturbed = find_worst_perturbation(loaded, packed, [item.group for item in part], spec.latent)
            with loaded.autocast(), perturb_outputs(perturbed):
                scores = score(loaded.model, packed, layer=layer)
            _compute_total_loss(spec, part, scores, base_scores, totals, losses, retain_weight).backward()

    def undo() -> None:
        loaded.model.zero_grad(set_to_none=True)
        losses.total = losses.forget = losses.retain = 0.0
        losses.after = None

    batcher.run(units, work, undo)
    return losses


def _split_items(items: list[BatchItem]) -> list[list[BatchItem]]:
    """Return the items of the forget term and those of the retain term, which a perturbation leaves alone."""
    forget = [item for item in items if item.group != "retain"]
    retain = [item for item in items if item.group == "retain"]
    return [part for part in (forget, retain) if part]


def compute_nll_gradients(
    loaded: LoadedModel,
    units: Sequence[BatchUnit],
    batcher: MicroBatcher,
    *,
    label_generator: torch.Generator | None = None,
) -> tuple[list[torch.Tensor], int]:
    """Return the gradient of the mean cross-entropy over `units`, one tensor per trainable parameter, and the number of
    positions.

    Args:
        label_generator: If given, labels are sampled from the model with its random numbers; else they are the true
            ones.
    """
    num_positions = sum(totals.num_tokens for totals in count_totals(units).values())
    uniform_P = torch.empty(0)
    if label_generator is not None:
        uniform_P = torch.rand(num_positions, generator=label_generator, dtype=torch.float64).to(loaded.device)
    num_done = 0

    def work(items: list[BatchItem]) -> None:
        nonlocal num_done
        with loaded.autocast():
            scores = score(loaded.model, pack([item.example for item in items], loaded.device))
        labels_P = scores.labels_P
        if label_generator is not None:
            labels_P = sample_labels(scores.logits_PV, uniform_P[num_done : num_done + len(labels_P)])
        num_done += len(labels_P)
        (cross_entropy(scores.logits_PV, labels_P, reduction="sum") / num_positions).backward()

    def undo() -> None:
        nonlocal num_done
        num_done = 0
        loaded.model.zero_grad(set_to_none=True)

    batcher.run(units, work, undo)
    return pop_gradients(loaded), num_positions


def pop_gradients(loaded: LoadedModel) -> list[torch.Tensor]:
    """Return the gradients of the trainable parameters, zeros if there is none, and clear them."""
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in get_trainable_parameters(loaded)
    ]
    loaded.model.zero_grad(set_to_none=True)
    return gradients


def get_trainable_parameters(loaded: LoadedModel) -> list[torch.nn.Parameter]:
    """Return the trainable parameters in the model's order."""
    return [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]


def count_totals(units: Sequence[BatchUnit]) -> dict[ExampleGroup, Totals]:
    """Count the sequences and supervised tokens of each group in a step."""
    totals: dict[ExampleGroup, Totals] = {}
    for item in (item for unit in units for item in unit):
        before = totals.get(item.group, Totals(0, 0))
        num_answer_tokens = len(item.example.token_ids) - item.example.num_prompt_tokens
        totals[item.group] = Totals(before.num_sequences + 1, before.num_tokens + num_answer_tokens)
    return totals


def _compute_total_loss(
    spec: JobSpec,
    items: list[BatchItem],
    scores: Scores,
    base_scores: BaseScores,
    totals: dict[ExampleGroup, Totals],
    losses: Losses,
    retain_weight: float | None,
) -> torch.Tensor:
    """Return w_f * forget term + w_a * after term + w_r * retain term of one micro-batch."""
    places: dict[ExampleGroup, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.group, []).append(place)
    total = scores.logp_P.new_zeros(())
    for part, (term, term_spec) in get_terms(spec).items():
        if not all(group in places for group in term.groups):
            continue  # this micro-batch has none of its sequences
        inputs = TermInputs(
            scores={group: scores.select(places[group]) for group in term.groups},
            totals=totals,
            base_scores={
                group: base_scores.get(group, [items[place].index for place in places[group]])
                for group in term.groups
                if group in term.base_scores
            },
            seed=spec.seed,
        )
        value = term.loss_fn(inputs, term_spec)
        setattr(losses, part, (getattr(losses, part) or 0.0) + float(value.detach()))
        weight = term_spec.weight if part != "retain" or retain_weight is None else retain_weight
        total = total + weight * value
    losses.total += float(total.detach())
    return total
