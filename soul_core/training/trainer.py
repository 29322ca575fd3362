"""The loop: batches, curvature when due, gradient, update, checkpoint. Resumes bit for bit on a CPU.

The model stays in eval mode: dropout would make the reference scores another model's.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from soul_core.data.encoding import Example
from soul_core.errors import Diverged
from soul_core.events import Listener, Phase, Wish, stop_if_asked
from soul_core.models.layers import steered_layer
from soul_core.models.loading import Loaded
from soul_core.objectives import needs_of
from soul_core.optimizers import OPTIMIZERS
from soul_core.optimizers.sophia import Sophia
from soul_core.optimizers.upstream import UpstreamCompat
from soul_core.spec import JobSpec
from soul_core.spec.optimizers import Influence
from soul_core.training.base_scores import ReferenceScores, Wanted, take_reference
from soul_core.training.batches import Batches, is_retain
from soul_core.training.checkpoint import newest_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from soul_core.training.curvature_passes import CURVATURES, PASSES
from soul_core.training.curvature_schedule import Refresh
from soul_core.training.history import Record, Trained
from soul_core.training.influence import take_influence_step
from soul_core.training.micro_batching import MicroBatcher, Unit
from soul_core.training.retain_weight import RetainWeight
from soul_core.training.saliency import Mask, take_mask
from soul_core.training.schedule import num_steps, schedule_factor
from soul_core.training.sharpness import add_sharp_gradients
from soul_core.training.step import Losses, add_gradients, trainable
from soul_core.training.term_examples import prepare
from soul_core.training.trainable import Movable

#: Asked after each step, with its number and what moves: is that enough?
Watch = Callable[[int, Movable], bool]


def train(
    loaded: Loaded,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    state_dir: Path,
    listener: Listener,
    phase: Phase = "unlearn",
    watch: Watch | None = None,
) -> Trained:
    """Change `loaded.model` in place: the base before, the unlearned or fine-tuned model after.

    Without forget examples this is fine-tuning: the retain term is all there is to learn. `phase` names the events.
    `watch` is told the number of each step behind it and ends the training by True.
    Raises Diverged (with what was trained until then), OutOfMemory, DiskFull, Interrupted (a checkpoint was written) or
    Cancelled.
    """
    folder = state_dir / "train"
    if isinstance(spec.optimizer, Influence):
        movable = Movable(loaded, spec)
        step = partial(take_influence_step, forget=forget, retain=retain, folder=folder, listener=listener, phase=phase)
        try:
            record = step(loaded, spec)
        finally:
            adapter = movable.settle()
        return record.trained(1, adapter)
    run = _Run(loaded, spec, forget, retain, folder, listener, phase)
    try:
        run.resume()
        while run.step < run.num_steps:
            run.stop_if_asked()
            started = time.monotonic()
            units = run.batches.next()
            run.observe_curvature_if_due(units)
            losses = run.add_gradients(units)
            norm = run.clip_gradients()
            if not (math.isfinite(losses.total) and math.isfinite(norm)):
                raise run.diverged(f"loss {losses.total} and gradient norm {norm}")
            lr = run.update()
            run.finish_step(started, units, losses, grad_norm=norm, lr=lr)
            if watch is not None and watch(run.step, run.movable):
                break
            if run.step % spec.training.checkpoint_every == 0 and run.step < run.num_steps:
                run.checkpoint()
    finally:
        adapter = run.movable.settle()  # also when it failed: whoever goes on finds a plain model
    return run.record.trained(run.step, adapter)


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
        self.loaded, self.spec, self.folder, self.listener = loaded, spec, folder, listener
        self.num_steps = num_steps(spec.training, forget=len(forget), retain=len(retain))
        self.step = 0
        self.batches = Batches(spec, prepare(loaded, spec, forget, retain, folder, listener))
        self.batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)
        self.generator = torch.Generator().manual_seed(spec.seed)
        self.reference = self._take_reference()
        self.retain_weight = RetainWeight(spec)
        self.movable = Movable(loaded, spec)  # behind the reference: it may round the weights beside adapters
        self.parameters = trainable(loaded)
        self.mask = self._take_mask()
        self.optimizer: Optimizer = OPTIMIZERS[spec.optimizer.kind](
            self.parameters, spec.optimizer, loaded.compute_dtype
        )
        self._curvature = getattr(spec.optimizer, "curvature", None)
        self.refresh = Refresh(
            every=self._curvature.every if self._curvature else 1,
            adaptive=self._curvature is not None and self._curvature.adaptive,
        )
        self.record = Record(loaded, listener, phase, self.num_steps)

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
        self.batches.restore(found.state["batches"])
        self.retain_weight.restore(found.state["retain_weight"])
        self.refresh.restore(found.state["refresh"])
        self.record.restore(found.state["record"], self.step)
        self.listener.emit("log", message=f"going on from the checkpoint of step {self.step}")

    def checkpoint(self) -> None:
        """Write everything that `resume` reads."""
        tensors: dict[str, torch.Tensor] = {
            f"parameter.{number}": parameter for number, parameter in enumerate(self.parameters)
        }
        tensors |= optimizer_tensors(self.optimizer)
        tensors["generator"] = self.generator.get_state()
        group = self.optimizer.param_groups[0]
        state = {
            "step": self.step,
            "micro_batch_tokens": self.batcher.max_tokens,
            "optimizer": {name: group[name] for name in ("lr", "num_observed") if name in group},
            "batches": self.batches.state(),
            "retain_weight": self.retain_weight.state(),
            "refresh": self.refresh.state(),
            "record": self.record.state(),
        }
        save_checkpoint(self.folder, self.step, tensors, state)
        self.listener.emit("checkpoint", step=self.step)

    def stop_if_asked(self) -> None:
        """Leave when that is wished; with a checkpoint first unless the run is cancelled."""
        wish = self.listener.wish()  # asked once: a wish that comes behind it is heard before the next step
        if wish is Wish.NONE:
            return
        if wish is Wish.INTERRUPT and self.step:
            self.checkpoint()
        stop_if_asked(self.listener)

    def observe_curvature_if_due(self, units: Sequence[Unit]) -> None:
        """Feed the optimizer an estimate of the diagonal; before the first update as many as the warm start asks."""
        if not isinstance(self.optimizer, Sophia) or self._curvature is None or not self.refresh.due(self.step):
            return
        count = 1 if self.step else self._curvature.warm_start
        for chosen in self.batches.for_curvature(units, self._curvature.data, count=count):
            estimates = CURVATURES[self._curvature.kind](self.loaded, chosen, self.batcher, self.generator)
            if not all(bool(estimate.isfinite().all()) for estimate in estimates):
                raise self.diverged("curvature that is not finite")
            if self.mask:
                self.mask.hide(estimates)
            self.optimizer.observe(estimates)
            self.record.count(chosen, passes=PASSES[self._curvature.kind])
        self.refresh.taken(self.step)

    def add_gradients(self, units: Sequence[Unit]) -> Losses:
        """Accumulate the gradient of the total loss; the sharpness-aware one where that is wished."""
        gradients = partial(self._gradients, retain_weight=self.retain_weight.value)
        losses = (
            add_sharp_gradients(gradients, self.loaded, units, rho=self.spec.sharpness.rho)
            if self.spec.sharpness
            else gradients(units)
        )
        if self.mask:
            self.mask.hide([parameter.grad for parameter in self.parameters])
        return losses

    def clip_gradients(self) -> float:
        """Bound the gradient's norm; return what it was."""
        return float(clip_grad_norm_(self.parameters, self.spec.training.grad_clip))

    def diverged(self, what: str) -> Diverged:
        """Return the error for numbers that must not reach the weights."""
        return Diverged(
            f"{what} at step {self.step + 1}, before its update; lower optimizer.lr, or bound the forget term "
            "(npo instead of grad_diff)",
            trained=self.record.trained(self.step),
        )

    def update(self) -> float:
        """Take the optimizer's step and clear the gradients; return the learning rate."""
        lr = self.spec.optimizer.lr * schedule_factor(self.spec, self.step, self.num_steps)  # type: ignore[union-attr]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.mask.holding(self.parameters) if self.mask else nullcontext():
            self.optimizer.step()
        self.loaded.model.zero_grad(set_to_none=True)
        return lr

    def finish_step(self, started: float, units: Sequence[Unit], losses: Losses, **values: float) -> None:
        """Count the step, keep its numbers and tell them."""
        row: dict[str, float | None] = {"loss": losses.total, **losses.parts(self.spec.kind), **values}
        if isinstance(self.optimizer, Sophia | UpstreamCompat):
            row["unclipped_fraction"] = fraction = self._unclipped_fraction(self.optimizer)
            if self.refresh.adaptive:
                row["curvature_interval"] = self.refresh.interval
            self.refresh.saw(fraction)
        row |= self.retain_weight.curve()
        self.retain_weight.after_step(self.step, losses.retain, units, self.reference)
        self.step += 1
        self.record.count(units)
        if self.spec.sharpness:
            self.record.count([unit for unit in units if not is_retain(unit)])
        self.record.finish_step(self.step, started, row)

    def _gradients(self, units: Sequence[Unit], *, retain_weight: float) -> Losses:
        return add_gradients(self.loaded, self.spec, units, self.reference, self.batcher, retain_weight=retain_weight)

    def _unclipped_fraction(self, optimizer: Sophia | UpstreamCompat) -> float | None:
        """Return the fraction among the weights that may move."""
        fraction = optimizer.unclipped_fraction
        return fraction / self.mask.share if self.mask and fraction is not None else fraction

    def _take_mask(self) -> Mask | None:
        if self.spec.saliency is None:
            return None
        return take_mask(
            self.loaded,
            self.spec.saliency,
            self.batches.groups,
            seed=self.spec.seed,
            batcher=self.batcher,
            folder=self.folder,
        )

    def _take_reference(self) -> ReferenceScores:
        """Return the base model's numbers for exactly the examples this run will use."""
        kept = ReferenceScores.load(self.folder, self.loaded)
        if kept is not None:
            return kept
        groups = self.batches.groups
        wanted = {
            group: Wanted(groups[group], self.batches.used(group, self.num_steps), needs)
            for group, needs in needs_of(self.spec).items()
            if groups.get(group)
        }
        layer = steered_layer(self.loaded.model, self.spec)
        scores = take_reference(self.loaded, wanted, batcher=self.batcher, listener=self.listener, layer=layer)
        if wanted:
            scores.save(self.folder)
        return scores
