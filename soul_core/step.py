"""One step's examples, their loss and its gradient, in micro-batches that add up to the same."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from soul_core.data import Example, pack
from soul_core.errors import OutOfMemory
from soul_core.listener import Listener
from soul_core.models import Loaded
from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.objectives.terms import Group, TermInputs, Totals
from soul_core.reference import ReferenceScores
from soul_core.scoring import Scores, score
from soul_core.spec import JobSpec
from soul_core.spec_terms import NoRetain


@dataclass(frozen=True, slots=True)
class Item:
    """One sequence of a step: which group reads it, and its index in its set."""

    group: Group
    index: int
    example: Example


#: Items that must share a forward pass: what a paired term (a preference) compares.
Unit = tuple[Item, ...]


@dataclass(slots=True)
class Losses:
    """A step's loss and its parts, summed over the micro-batches."""

    total: float = 0.0
    forget: float = 0.0
    retain: float = 0.0


@dataclass(slots=True)
class MicroBatcher:
    """Runs something over micro-batches, in smaller ones from then on when memory runs out."""

    max_tokens: int
    listener: Listener
    _warned: list[int] = field(default_factory=list)

    def over(self, units: Sequence[Unit], work: Callable[[list[Item]], None], undo: Callable[[], None]) -> None:
        """Call `work` on the items of each micro-batch; after lack of memory `undo` and begin again, smaller.

        Raises OutOfMemory when even one unit is too much.
        """
        while True:
            batches = list(self._split(units))
            try:
                for batch in batches:
                    work([item for unit in batch for item in unit])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                if all(len(batch) == 1 for batch in batches):
                    most = max(map(_tokens, units))
                    raise OutOfMemory(
                        f"not enough memory to train on one sequence of {most} tokens; lower training.max_tokens, or "
                        "take a smaller model or a larger machine"
                    ) from None
            else:
                return
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            largest = max(sum(map(_tokens, batch)) for batch in batches if len(batch) > 1)
            self.max_tokens = largest // 2
            self.listener.emit(
                "warning", message=f"memory ran out; going on with at most {self.max_tokens} tokens in a forward pass"
            )

    def _split(self, units: Sequence[Unit]) -> Iterator[list[Unit]]:
        batch: list[Unit] = []
        room = self.max_tokens
        for unit in units:
            if batch and _tokens(unit) > room:
                yield batch
                batch, room = [], self.max_tokens
            batch.append(unit)
            room -= _tokens(unit)
        if batch:
            yield batch


def add_gradients(
    loaded: Loaded, spec: JobSpec, units: Sequence[Unit], reference: ReferenceScores, batcher: MicroBatcher
) -> Losses:
    """Accumulate the gradient of the total loss over `units` into the parameters; return the losses."""
    totals = totals_of(units)
    losses = Losses()

    def work(items: list[Item]) -> None:
        with loaded.autocast():
            scores = score(loaded.model, pack([item.example for item in items], loaded.device))
        total = _total_loss(spec, items, scores, reference, totals, losses)
        total.backward()

    def undo() -> None:
        loaded.model.zero_grad(set_to_none=True)
        losses.total = losses.forget = losses.retain = 0.0

    batcher.over(units, work, undo)
    return losses


def totals_of(units: Sequence[Unit]) -> dict[Group, Totals]:
    """Count sequences and supervised tokens of each group over the whole step."""
    counted: dict[Group, Totals] = {}
    for item in (item for unit in units for item in unit):
        before = counted.get(item.group, Totals(0, 0))
        answer_tokens = len(item.example.token_ids) - item.example.num_prompt
        counted[item.group] = Totals(before.num_sequences + 1, before.num_tokens + answer_tokens)
    return counted


def _total_loss(
    spec: JobSpec,
    items: list[Item],
    scores: Scores,
    reference: ReferenceScores,
    totals: dict[Group, Totals],
    losses: Losses,
) -> torch.Tensor:
    """Return w_f * forget term + w_r * retain term of one micro-batch."""
    places: dict[Group, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.group, []).append(place)
    total = scores.logp_P.new_zeros(())
    for table, term_spec, name in ((FORGET_TERMS, spec.forget, "forget"), (RETAIN_TERMS, spec.retain, "retain")):
        term = table.get(term_spec.kind)
        if term is None or isinstance(term_spec, NoRetain) or not all(group in places for group in term.reads):
            continue  # no retain term, or none of its sequences here
        inputs = TermInputs(
            scores={group: scores.select(places[group]) for group in term.reads},
            totals=totals,
            reference={
                group: reference.of(term.reference, [items[place].index for place in places[group]])
                for group in term.reads
            },
        )
        value = term.value(inputs, term_spec)
        setattr(losses, name, getattr(losses, name) + float(value.detach()))
        total = total + term_spec.weight * value
    losses.total += float(total.detach())
    return total


def _tokens(unit: Unit) -> int:
    return sum(len(item.example.token_ids) for item in unit)


def _lacks_memory(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "not enough memory" in text
    )
