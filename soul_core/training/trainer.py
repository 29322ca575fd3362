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
from soul_core.errors import TrainingDivergedError
from soul_core.events import Listener, Phase, StopRequest, raise_if_stop_requested
from soul_core.models.loading import LoadedModel
from soul_core.objectives import collect_base_score_kinds, find_steered_layer
from soul_core.optimizers import OPTIMIZERS
from soul_core.optimizers.sophia import Sophia
from soul_core.optimizers.upstream import UpstreamCompat
from soul_core.spec import JobSpec
from soul_core.spec.optimizers import Influence
from soul_core.training.base_scores import BaseScoreRequest, BaseScores, compute_base_scores
from soul_core.training.batches import TrainingBatches, is_retain
from soul_core.training.checkpoint import (
    get_optimizer_tensors,
    load_newest_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS, PASSES_PER_ESTIMATE
from soul_core.training.curvature_schedule import CurvatureSchedule
from soul_core.training.history import TrainingHistory, TrainingResult
from soul_core.training.influence import take_influence_step
from soul_core.training.micro_batching import BatchUnit, MicroBatcher
from soul_core.training.retain_weight import RetainWeight
from soul_core.training.saliency import SaliencyMask, load_or_compute_mask
from soul_core.training.schedule import compute_lr_factor, compute_num_steps
from soul_core.training.sharpness import add_sharpness_aware_gradients
from soul_core.training.step import Losses, add_gradients, get_trainable_parameters
from soul_core.training.term_examples import make_term_examples
from soul_core.training.trainable import TrainableParameters

#: Asked after each step, with its number and what moves: is that enough?
StopCondition = Callable[[int, TrainableParameters], bool]


def train(
    loaded: LoadedModel,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    state_dir: Path,
    listener: Listener,
    phase: Phase = "unlearn",
    should_stop: StopCondition | None = None,
) -> TrainingResult:
    """Change `loaded.model` in place: the base before, the unlearned or fine-tuned model after.

    Without forget examples this is fine-tuning: the retain term is all there is to learn. `phase` names the events.
    `watch` is told the number of each step behind it and ends the training by True.
    Raises Diverged (with what was trained until then), OutOfMemory, DiskFull, Interrupted (a checkpoint was written) or
    Cancelled.
    """
    folder = state_dir / "train"
    if isinstance(spec.optimizer, Influence):
        movable = TrainableParameters(loaded, spec)
        step = partial(take_influence_step, forget=forget, retain=retain, folder=folder, listener=listener, phase=phase)
        try:
            record = step(loaded, spec)
        finally:
            adapter = movable.finalize()
        return record.make_result(1, adapter)
    run = _Run(loaded, spec, forget, retain, folder, listener, phase)
    try:
        run.resume()
        while run.step < run.num_steps:
            run.stop_if_requested()
            started = time.monotonic()
            units = run.batches.next_batch()
            run.update_curvature_if_due(units)
            losses = run.add_gradients(units)
            norm = run.clip_gradients()
            if not (math.isfinite(losses.total) and math.isfinite(norm)):
                raise run.diverged(f"loss {losses.total} and gradient norm {norm}")
            lr = run.update()
            run.finish_step(started, units, losses, grad_norm=norm, lr=lr)
            if should_stop is not None and should_stop(run.step, run.trainable_parameters):
                break
            if run.step % spec.training.checkpoint_every == 0 and run.step < run.num_steps:
                run.checkpoint()
    finally:
        adapter = run.trainable_parameters.finalize()  # also when it failed: whoever goes on finds a plain model
    return run.history.make_result(run.step, adapter)


class _Run:
    """The state of one training, and what the loop does with it."""

    def __init__(
        self,
        loaded: LoadedModel,
        spec: JobSpec,
        forget: Sequence[Example],
        retain: Sequence[Example],
        folder: Path,
        listener: Listener,
        phase: Phase,
    ) -> None:
        self.loaded, self.spec, self.folder, self.listener = loaded, spec, folder, listener
        self.num_steps = compute_num_steps(spec.training, num_forget=len(forget), num_retain=len(retain))
        self.step = 0
        self.batches = TrainingBatches(spec, make_term_examples(loaded, spec, forget, retain, folder, listener))
        self.batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)
        self.generator = torch.Generator().manual_seed(spec.seed)
        self.base_scores = self._take_reference()
        self.retain_weight = RetainWeight(spec)
        self.trainable_parameters = TrainableParameters(
            loaded, spec
        )  # behind the reference: it may round the weights beside adapters
        self.parameters = get_trainable_parameters(loaded)
        self.mask = self._take_mask()
        self.optimizer: Optimizer = OPTIMIZERS[spec.optimizer.kind](
            self.parameters, spec.optimizer, loaded.compute_dtype
        )
        self._curvature = getattr(spec.optimizer, "curvature", None)
        self.curvature_schedule = CurvatureSchedule(
            every=self._curvature.every if self._curvature else 1,
            adaptive=self._curvature is not None and self._curvature.adaptive,
        )
        self.history = TrainingHistory(loaded, listener, phase, self.num_steps)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = load_newest_checkpoint(self.folder, self.loaded.device)
        if found is None:
            return
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters):
                parameter.copy_(found.tensors[f"parameter.{number}"])
        restore_optimizer(self.optimizer, found.tensors, found.state["optimizer"])
        self.generator.set_state(found.tensors["generator"].cpu())
        self.step = found.state["step"]
        self.batcher.max_tokens = found.state["micro_batch_tokens"]
        self.batches.load_state_dict(found.state["batches"])
        self.retain_weight.load_state_dict(found.state["retain_weight"])
        self.curvature_schedule.load_state_dict(found.state["refresh"])
        self.history.load_state_dict(found.state["record"], self.step)
        self.listener.emit("log", message=f"going on from the checkpoint of step {self.step}")

    def checkpoint(self) -> None:
        """Write everything that `resume` reads."""
        tensors: dict[str, torch.Tensor] = {
            f"parameter.{number}": parameter for number, parameter in enumerate(self.parameters)
        }
        tensors |= get_optimizer_tensors(self.optimizer)
        tensors["generator"] = self.generator.get_state()
        group = self.optimizer.param_groups[0]
        state = {
            "step": self.step,
            "micro_batch_tokens": self.batcher.max_tokens,
            "optimizer": {name: group[name] for name in ("lr", "num_observed") if name in group},
            "batches": self.batches.state_dict(),
            "retain_weight": self.retain_weight.state_dict(),
            "refresh": self.curvature_schedule.state_dict(),
            "record": self.history.state_dict(),
        }
        save_checkpoint(self.folder, self.step, tensors, state)
        self.listener.emit("checkpoint", step=self.step)

    def stop_if_requested(self) -> None:
        """Leave when that is wished; with a checkpoint first unless the run is cancelled."""
        wish = self.listener.stop_request()  # asked once: a wish that comes behind it is heard before the next step
        if wish is StopRequest.NONE:
            return
        if wish is StopRequest.INTERRUPT and self.step:
            self.checkpoint()
        raise_if_stop_requested(self.listener)

    def update_curvature_if_due(self, units: Sequence[BatchUnit]) -> None:
        """Feed the optimizer an estimate of the diagonal; before the first update as many as the warm start asks."""
        if (
            not isinstance(self.optimizer, Sophia)
            or self._curvature is None
            or not self.curvature_schedule.is_due(self.step)
        ):
            return
        count = 1 if self.step else self._curvature.warm_start
        for chosen in self.batches.draw_curvature_batches(units, self._curvature.data, num_batches=count):
            estimates = CURVATURE_ESTIMATORS[self._curvature.kind](self.loaded, chosen, self.batcher, self.generator)
            if not all(bool(estimate.isfinite().all()) for estimate in estimates):
                raise self.diverged("curvature that is not finite")
            if self.mask:
                self.mask.apply(estimates)
            self.optimizer.update_curvature(estimates)
            self.history.count_tokens(chosen, passes=PASSES_PER_ESTIMATE[self._curvature.kind])
        self.curvature_schedule.record_estimate(self.step)

    def add_gradients(self, units: Sequence[BatchUnit]) -> Losses:
        """Accumulate the gradient of the total loss; the sharpness-aware one where that is wished."""
        gradients = partial(self._gradients, retain_weight=self.retain_weight.value)
        losses = (
            add_sharpness_aware_gradients(gradients, self.loaded, units, rho=self.spec.sharpness.rho)
            if self.spec.sharpness
            else gradients(units)
        )
        if self.mask:
            self.mask.apply([parameter.grad for parameter in self.parameters])
        return losses

    def clip_gradients(self) -> float:
        """Bound the gradient's norm; return what it was."""
        return float(clip_grad_norm_(self.parameters, self.spec.training.grad_clip))

    def diverged(self, what: str) -> TrainingDivergedError:
        """Return the error for numbers that must not reach the weights."""
        return TrainingDivergedError(
            f"{what} at step {self.step + 1}, before its update; lower optimizer.lr, or bound the forget term "
            "(npo instead of grad_diff)",
            training_result=self.history.make_result(self.step),
        )

    def update(self) -> float:
        """Take the optimizer's step and clear the gradients; return the learning rate."""
        lr = self.spec.optimizer.lr * compute_lr_factor(self.spec, self.step, self.num_steps)  # type: ignore[union-attr]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.mask.hold_frozen(self.parameters) if self.mask else nullcontext():
            self.optimizer.step()
        self.loaded.model.zero_grad(set_to_none=True)
        return lr

    def finish_step(self, started_at: float, units: Sequence[BatchUnit], losses: Losses, **values: float) -> None:
        """Count the step, keep its numbers and tell them."""
        row: dict[str, float | None] = {"loss": losses.total, **losses.get_term_losses(self.spec.kind), **values}
        if isinstance(self.optimizer, Sophia | UpstreamCompat):
            row["unclipped_fraction"] = fraction = self._unclipped_fraction(self.optimizer)
            if self.curvature_schedule.is_adaptive:
                row["curvature_interval"] = self.curvature_schedule.interval
            self.curvature_schedule.record_unclipped_fraction(fraction)
        row |= self.retain_weight.get_curve()
        self.retain_weight.update(self.step, losses.retain, units, self.base_scores)
        self.step += 1
        self.history.count_tokens(units)
        if self.spec.sharpness:
            self.history.count_tokens([unit for unit in units if not is_retain(unit)])
        self.history.record_step(self.step, started_at, row)

    def _gradients(self, units: Sequence[BatchUnit], *, retain_weight: float) -> Losses:
        return add_gradients(self.loaded, self.spec, units, self.base_scores, self.batcher, retain_weight=retain_weight)

    def _unclipped_fraction(self, optimizer: Sophia | UpstreamCompat) -> float | None:
        """Return the fraction among the weights that may move."""
        fraction = optimizer.unclipped_fraction
        return fraction / self.mask.trainable_fraction if self.mask and fraction is not None else fraction

    def _take_mask(self) -> SaliencyMask | None:
        if self.spec.saliency is None:
            return None
        return load_or_compute_mask(
            self.loaded,
            self.spec.saliency,
            self.batches.groups,
            seed=self.spec.seed,
            batcher=self.batcher,
            folder=self.folder,
        )

    def _take_reference(self) -> BaseScores:
        """Return the base model's numbers for exactly the examples this run will use."""
        kept = BaseScores.load(self.folder, self.loaded)
        if kept is not None:
            return kept
        groups = self.batches.groups
        wanted = {
            group: BaseScoreRequest(groups[group], self.batches.list_used_indices(group, self.num_steps), needs)
            for group, needs in collect_base_score_kinds(self.spec).items()
            if groups.get(group)
        }
        layer = find_steered_layer(self.loaded.model, self.spec)
        scores = compute_base_scores(self.loaded, wanted, batcher=self.batcher, listener=self.listener, layer=layer)
        if wanted:
            scores.save(self.folder)
        return scores
