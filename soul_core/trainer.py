"""The loop: batches, curvature when due, gradient, update, checkpoint. Resumes bit for bit on a CPU.

The model stays in eval mode: dropout would make the reference scores another model's.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from soul_core.accumulation import Item, MicroBatcher, Unit
from soul_core.checkpoint import newest_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from soul_core.data import BatchStream, Example
from soul_core.errors import Diverged
from soul_core.listener import Listener, Phase, Wish, stop_if_asked
from soul_core.models import Loaded
from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.optimizers import CURVATURES, OPTIMIZERS
from soul_core.optimizers.sophia import Sophia
from soul_core.reference import ReferenceScores, take_reference
from soul_core.refusals import refusal_examples
from soul_core.schedule import schedule_factor
from soul_core.spec import JobSpec
from soul_core.spec_terms import Refusal
from soul_core.step import add_gradients, sampled_gradients

#: The authors of Sophia want this share of weights unclipped (arXiv:2305.14342, section 3.1).
HEALTHY_UNCLIPPED = (0.1, 0.5)
#: Steps over which that share is averaged before it is worth a warning.
_UNCLIPPED_STEPS = 10


@dataclass
class Trained:
    """What a finished training tells the report."""

    steps: int = 0
    train_tokens: int = 0
    flops: float = 0.0
    resumed_at_steps: list[int] = field(default_factory=list)
    curves: dict[str, tuple[float | None, ...]] = field(default_factory=dict)


def train(
    loaded: Loaded,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    state_dir: Path,
    listener: Listener,
    phase: Phase = "unlearn",
) -> Trained:
    """Change `loaded.model` in place: the base before, the unlearned or fine-tuned model after.

    Without forget examples this is fine-tuning: the retain term is all there is to learn. `phase` names the events.
    Raises Diverged, OutOfMemory, DiskFull, Interrupted (a checkpoint was written) or Cancelled.
    """
    run = _Run(loaded, spec, forget, retain, state_dir / "train", listener, phase)
    run.resume()
    while run.step < spec.training.steps:
        run.stop_if_asked()
        started = time.monotonic()
        units = run.next_units()
        if run.curvature_due():
            run.observe_curvature(units)
        losses = add_gradients(loaded, spec, units, run.reference, run.batcher)
        norm = float(clip_grad_norm_(run.parameters, spec.training.grad_clip))
        if not (math.isfinite(losses.total) and math.isfinite(norm)):
            raise run.diverged(f"loss {losses.total} and gradient norm {norm}")
        lr = run.set_learning_rate()
        run.optimizer.step()
        loaded.model.zero_grad(set_to_none=True)
        run.finish_step(
            started,
            units,
            loss=losses.total,
            **losses.parts(spec.kind),
            grad_norm=norm,
            lr=lr,
        )
        if run.step % spec.training.checkpoint_every == 0 and run.step < spec.training.steps:
            run.checkpoint()
    return run.trained()


class _Run:
    """The state of one training, and what the loop does with it."""

    def __init__(
        self,
        loaded: Loaded,
        spec: JobSpec,
        forget: Sequence[Example],
        retain: Sequence[Example],
        folder: Path,
        listener: Listener,
        phase: Phase,
    ) -> None:
        self.loaded, self.spec, self.folder, self.listener, self.phase = loaded, spec, folder, listener, phase
        self.parameters = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
        self.optimizer: Optimizer = OPTIMIZERS[spec.optimizer.kind](self.parameters, spec.optimizer)
        self.batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)
        self.generator = torch.Generator().manual_seed(spec.seed)
        self.step = 0
        self._groups: dict[str, Sequence[Example]] = {"forget": forget, "retain": retain}
        if forget and isinstance(spec.forget, Refusal):
            self._groups["refusal"] = refusal_examples(forget, spec.forget, loaded, seed=spec.seed)
        training = spec.training
        self._forget_stream = BatchStream(len(forget), training.forget_batch, spec.seed) if forget else None
        self._retain_stream = BatchStream(len(retain), training.retain_batch, spec.seed + 1) if retain else None
        self.reference = self._take_reference()
        self._curves: dict[str, list[float | None]] = {}
        self._trained = Trained()
        self._warned = False

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = newest_checkpoint(self.folder, self.loaded.device)
        if found is None:
            return
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters):
                parameter.copy_(found.tensors[f"parameter.{number}"])
        restore_optimizer(self.optimizer, found.tensors, found.state["optimizer"])
        self.generator.set_state(found.tensors["generator"].cpu())
        self.step = found.state["step"]
        self.batcher.max_tokens = found.state["micro_batch_tokens"]
        if self._forget_stream:
            self._forget_stream.restore(found.state["forget_stream"])
        if self._retain_stream:
            self._retain_stream.restore(found.state["retain_stream"])
        self._curves = found.state["curves"]
        self._trained = Trained(**found.state["trained"])
        self._trained.resumed_at_steps.append(self.step)
        self._warned = found.state["warned"]
        self.listener.emit("log", message=f"going on from the checkpoint of step {self.step}")

    def checkpoint(self) -> None:
        """Write everything that `resume` reads."""
        tensors = {f"parameter.{number}": parameter for number, parameter in enumerate(self.parameters)}
        tensors |= optimizer_tensors(self.optimizer)
        tensors["generator"] = self.generator.get_state()
        group = self.optimizer.param_groups[0]
        state = {
            "step": self.step,
            "micro_batch_tokens": self.batcher.max_tokens,
            "forget_stream": self._forget_stream.state() if self._forget_stream else None,
            "retain_stream": self._retain_stream.state() if self._retain_stream else None,
            "optimizer": {name: group[name] for name in ("lr", "num_observed") if name in group},
            "curves": self._curves,
            "trained": vars(self._trained),
            "warned": self._warned,
        }
        save_checkpoint(self.folder, self.step, tensors, state)
        self.listener.emit("checkpoint", step=self.step)

    def stop_if_asked(self) -> None:
        """Leave when that is wished; with a checkpoint first unless the run is cancelled."""
        if self.listener.wish() is Wish.INTERRUPT and self.step:
            self.checkpoint()
        stop_if_asked(self.listener)

    def next_units(self) -> list[Unit]:
        """Draw the step's examples, forget and retain together."""
        reads = FORGET_TERMS[self.spec.forget.kind].reads
        units = [self._unit(reads, index) for index in self._forget_stream.next()] if self._forget_stream else []
        if self._retain_stream and self.spec.retain.kind in RETAIN_TERMS:
            units += [self._unit(("retain",), index) for index in self._retain_stream.next()]
        return units

    def curvature_due(self) -> bool:
        """Say whether this step begins with a new estimate."""
        return isinstance(self.optimizer, Sophia) and self.step % self.spec.optimizer.curvature.every == 0  # type: ignore[union-attr]

    def observe_curvature(self, units: Sequence[Unit]) -> None:
        """Feed the optimizer an estimate of the diagonal; before the first update as many as the warm start asks."""
        assert isinstance(self.optimizer, Sophia)
        warming = self.step == 0
        curvature = self.spec.optimizer.curvature  # type: ignore[union-attr]
        for _ in range(max(1, curvature.warm_start) if warming else 1):
            if warming and curvature.warm_start == 0:
                return
            chosen = self._curvature_units(units, curvature.data)
            gradients, num_positions = sampled_gradients(self.loaded, chosen, self.batcher, self.generator)
            estimates = CURVATURES[curvature.kind](gradients, num_positions)
            if not all(bool(estimate.isfinite().all()) for estimate in estimates):
                raise self.diverged("curvature that is not finite")
            self.optimizer.observe(estimates, averaged=warming)
            self._count(chosen)

    def diverged(self, what: str) -> Diverged:
        """Return the error for numbers that must not reach the weights."""
        return Diverged(
            f"{what} at step {self.step + 1}, before its update; lower optimizer.lr, or bound the forget term "
            "(npo instead of grad_diff)"
        )

    def set_learning_rate(self) -> float:
        """Set and return this step's learning rate."""
        lr = self.spec.optimizer.lr * schedule_factor(self.spec, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def finish_step(self, started: float, units: Sequence[Unit], **values: float) -> None:
        """Count the step, keep its numbers and tell them."""
        self.step += 1
        self._count(units)
        seconds = time.monotonic() - started
        row: dict[str, Any] = {**values}
        if isinstance(self.optimizer, Sophia):
            row["unclipped_fraction"] = self.optimizer.unclipped_fraction
        for name, value in row.items():
            self._curves.setdefault(name, []).append(value)
        self.listener.emit(
            "metrics", step=self.step, seconds=round(seconds, 4), tokens=self._trained.train_tokens, **row
        )
        total = self.spec.training.steps
        self.listener.emit(
            "progress",
            phase=self.phase,
            done=self.step,
            total=total,
            unit="step",
            eta_seconds=round(seconds * (total - self.step), 1),
            loss=row["loss"],
        )
        self._watch_clipping()

    def trained(self) -> Trained:
        self._trained.steps = self.step
        self._trained.curves = {name: tuple(values) for name, values in self._curves.items()}
        return self._trained

    def _take_reference(self) -> ReferenceScores:
        """Return the base model's numbers for exactly the examples this run will use."""
        kept = ReferenceScores.load(self.folder, self.loaded)
        if kept is not None:
            return kept
        spec = self.spec
        wanted: dict[str, tuple[Sequence[Example], Sequence[int]]] = {}
        for table, kind, name, batch, seed in (
            (FORGET_TERMS, spec.forget.kind, "forget", spec.training.forget_batch, spec.seed),
            (RETAIN_TERMS, spec.retain.kind, "retain", spec.training.retain_batch, spec.seed + 1),
        ):
            reference = table[kind].reference if kind in table else None
            examples = self._groups[name]
            if reference is not None and examples:
                stream = BatchStream(len(examples), batch, seed)
                used = {index for _ in range(spec.training.steps) for index in stream.next()}
                wanted[reference] = (examples, sorted(used))
        reference_scores = take_reference(self.loaded, wanted, batcher=self.batcher, listener=self.listener)
        if wanted:
            reference_scores.save(self.folder)
        return reference_scores

    def _unit(self, groups: Sequence[Any], index: int) -> Unit:
        return tuple(Item(group, index, self._groups[group][index]) for group in groups)

    def _curvature_units(self, units: Sequence[Unit], data: str) -> list[Unit]:
        """Return this step's examples of the wanted kind; drawn anew when the loss has none (no retain term)."""
        is_retain = [unit[0].group == "retain" for unit in units]
        chosen = [
            unit
            for unit, retained in zip(units, is_retain, strict=True)
            if data in {"both", "retain" if retained else "forget"}
        ]
        if not any(is_retain) and data != "forget" and self._retain_stream:
            chosen += [self._unit(("retain",), index) for index in self._retain_stream.next()]
        return chosen

    def _count(self, units: Sequence[Unit]) -> None:
        tokens = sum(len(item.example.token_ids) for unit in units for item in unit)
        self._trained.train_tokens += tokens
        self._trained.flops += 6.0 * self.loaded.facts.num_parameters * tokens

    def _watch_clipping(self) -> None:
        values = self._curves.get("unclipped_fraction", [])[-_UNCLIPPED_STEPS:]
        recent = [value for value in values if value is not None]
        low, high = HEALTHY_UNCLIPPED
        if self._warned or len(recent) < _UNCLIPPED_STEPS or low <= sum(recent) / len(recent) <= high:
            return
        self._warned = True
        mean = sum(recent) / len(recent)
        advice = "raise" if mean < low else "lower"
        self.listener.emit(
            "warning",
            message=f"{mean:.0%} of the weights moved unclipped over the last {_UNCLIPPED_STEPS} steps; Sophia's "
            f"authors want {low:.0%} to {high:.0%}: {advice} optimizer.gamma",
        )
