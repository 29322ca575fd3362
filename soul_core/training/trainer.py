"""The training loop: batches, curvature when due, gradient, update, checkpoint. Resumes bit for bit on a CPU.

The model stays in eval mode: with dropout it would differ from the model of the base scores.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from soul_core.data.encoding import Example
from soul_core.errors import TrainingDivergedError
from soul_core.events import Listener, Phase, StopRequest, raise_if_stop_requested
from soul_core.models.loading import LoadedModel
from soul_core.objectives import collect_base_score_kinds, find_steered_layer
from soul_core.optimizers import OPTIMIZERS
from soul_core.optimizers.clipped import ClippedOptimizer
from soul_core.optimizers.kfac import KfacOptimizer
from soul_core.optimizers.sophia import Sophia
from soul_core.spec import JobSpec
from soul_core.spec import optimizers as spec_optimizers
from soul_core.spec.optimizers import Curvature
from soul_core.training.base_scores import BaseScoreRequest, BaseScores, compute_base_scores
from soul_core.training.batches import TrainingBatches, is_retain
from soul_core.training.checkpoint import Stateful, StatefulGenerator, load_newest_checkpoint, save_checkpoint
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS, PASSES_PER_ESTIMATE
from soul_core.training.curvature_schedule import CurvatureSchedule
from soul_core.training.history import TrainingHistory, TrainingResult
from soul_core.training.input_factors import load_or_compute_preconditioners
from soul_core.training.micro_batching import BatchUnit, MicroBatcher
from soul_core.training.paraphrases import add_paraphrases
from soul_core.training.retain_weight import RetainWeight
from soul_core.training.saliency import load_or_compute_mask
from soul_core.training.schedule import PASSES_PER_LATENT_STEP, compute_lr_factor, compute_num_steps
from soul_core.training.sharpness import add_sharpness_aware_gradients
from soul_core.training.step import Losses, add_gradients
from soul_core.training.term_examples import make_term_examples
from soul_core.training.trainable import TrainableParameters
from soul_core.training.trust_region import make_trust_region, set_lr
from soul_core.training.watched_rows import make_forget_progress

#: (number of steps taken, trainable parameters, whether it ends here anyway) -> whether the training ends here.
StopCondition = Callable[[int, TrainableParameters, bool], bool]


def train(
    loaded: LoadedModel,
    spec: JobSpec,
    *,
    forget: Sequence[Example],
    retain: Sequence[Example],
    state_dir: Path,
    listener: Listener,
    guard: Sequence[Example] = (),
    phase: Phase = "unlearn",
    should_stop: StopCondition | None = None,
) -> TrainingResult:
    """Train the base model in place to the unlearned or fine-tuned model, or resume an interrupted training.

    Args:
        forget: Empty in a fine-tuning, which learns `retain` by the retain term.
        state_dir: The folder of checkpoints and of what is computed once.
        guard: Rows that are not trained on, for the curvature and for the learning rate; none: retain rows.
        phase: The phase that events name.
        should_stop: Called after each step.

    Raises:
        TrainingDivergedError: Holds the result so far.
        OutOfMemory: Even for a single sequence.
        DiskFull: No space for a checkpoint.
        RunInterruptedError: A checkpoint was written.
        RunCancelledError: A cancel was requested.
    """
    run = TrainingRun(loaded, spec, forget, retain, guard, state_dir / "train", listener, phase)
    try:
        run.resume()
        while run.step < run.num_steps:
            run.stop_if_requested()
            started_at = time.monotonic()
            units = run.batches.next_batch()
            run.update_curvature_if_due(units)
            losses = run.add_gradients(units)
            grad_norm = run.clip_gradients()
            if not (math.isfinite(losses.total) and math.isfinite(grad_norm)):
                raise run.make_divergence_error(f"loss {losses.total} and gradient norm {grad_norm}")
            lr = run.update_weights()
            run.finish_step(started_at, units, losses, grad_norm=grad_norm, lr=lr)
            is_last = run.step == run.num_steps or run.has_reached_end()
            if (should_stop is not None and should_stop(run.step, run.trainable, is_last)) or is_last:
                break
            if run.step % spec.training.checkpoint_every == 0:
                run.save_checkpoint()
    finally:
        adapter = run.trainable.finalize()  # also after an error: the caller expects a model without adapters
    return run.history.make_result(run.step, adapter)


class TrainingRun:
    """The state of one training and the operations of its loop."""

    def __init__(
        self,
        loaded: LoadedModel,
        spec: JobSpec,
        forget: Sequence[Example],
        retain: Sequence[Example],
        guard: Sequence[Example],
        folder: Path,
        listener: Listener,
        phase: Phase,
    ) -> None:
        self.loaded, self.spec, self.folder, self.listener = loaded, spec, folder, listener
        forget = add_paraphrases(loaded, spec, forget, folder, listener)
        self.num_steps = compute_num_steps(spec.training, num_forget=len(forget), num_retain=len(retain))
        self.step = 0
        self.batches = TrainingBatches(
            spec, make_term_examples(loaded, spec, forget, retain, folder, listener, guard=guard)
        )
        self.batcher = MicroBatcher(spec.training.micro_batch_tokens, listener)
        self.generator = StatefulGenerator(spec.seed)
        self.base_scores = self._load_or_compute_base_scores()
        self.retain_weight = RetainWeight(spec)
        # after the base scores: with LoRA the base weights may be quantized from here on
        self.trainable = TrainableParameters(loaded, spec)
        self.mask = load_or_compute_mask(
            loaded, spec.saliency, self.batches.groups, seed=spec.seed, batcher=self.batcher, folder=folder
        )
        self.optimizer: Optimizer = OPTIMIZERS[spec.optimizer.kind](
            self.trainable.parameters, spec.optimizer, loaded.compute_dtype
        )
        if isinstance(self.optimizer, KfacOptimizer) and isinstance(spec.optimizer, spec_optimizers.Kfac):
            preconditioners = load_or_compute_preconditioners(
                loaded, self.trainable.parameters, self.batches.groups, spec.optimizer, self.batcher, folder
            )
            self.optimizer.set_preconditioners(preconditioners)
        self.curvature: Curvature | None = getattr(spec.optimizer, "curvature", None)
        self.curvature_schedule = CurvatureSchedule(
            every=self.curvature.every if self.curvature else 1,
            adaptive=self.curvature is not None and self.curvature.adaptive,
        )
        self.trust_region = make_trust_region(
            loaded, spec, self.batches.groups, self.batcher, self.trainable.parameters, self.num_steps
        )
        self.guard_rise: float | None = None
        self.forget_progress = make_forget_progress(loaded, spec, forget, self.batcher)
        self.history = TrainingHistory(
            loaded,
            listener,
            phase,
            self.num_steps,
            warns_of_clipping=getattr(spec.optimizer, "gamma", None) != "auto",  # it follows a target then
        )
        #: Everything that a checkpoint saves, in addition to the number of steps.
        self.stateful: dict[str, Stateful] = {
            "weights": self.trainable,
            "optimizer": self.optimizer,
            "generator": self.generator,
            "batches": self.batches,
            "batcher": self.batcher,
            "retain_weight": self.retain_weight,
            "curvature_schedule": self.curvature_schedule,
            **({"trust_region": self.trust_region} if self.trust_region else {}),
            **({"forget_progress": self.forget_progress} if self.forget_progress else {}),
            "history": self.history,
        }

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        checkpoint = load_newest_checkpoint(self.folder, self.loaded.device)
        if checkpoint is None:
            return
        self.step = checkpoint.step
        for name, part in self.stateful.items():
            part.load_state_dict(checkpoint.states[name])
        self.history.record_resume(self.step)
        self.listener.emit("log", message=f"resumed from the checkpoint of step {self.step}")

    def save_checkpoint(self) -> None:
        """Write everything that `resume` reads."""
        states = {name: part.state_dict() for name, part in self.stateful.items()}
        save_checkpoint(self.folder, self.step, states)
        self.listener.emit("checkpoint", step=self.step)

    def stop_if_requested(self) -> None:
        """Raise if a stop is requested, after a checkpoint unless the run is cancelled."""
        request = self.listener.stop_request()  # read once: a later request is handled before the next step
        if request is StopRequest.NONE:
            return
        if request is StopRequest.INTERRUPT and self.step:
            self.save_checkpoint()
        raise_if_stop_requested(self.listener)

    def update_curvature_if_due(self, units: Sequence[BatchUnit]) -> None:
        """Give the optimizer an estimate of the curvature; before the first update, `warm_start` of them."""
        if (
            not isinstance(self.optimizer, Sophia)
            or not self.curvature
            or not self.curvature_schedule.is_due(self.step)
        ):
            return
        num_estimates = 1 if self.step else self.curvature.warm_start
        for batch in self.batches.draw_curvature_batches(units, self.curvature.data, num_batches=num_estimates):
            estimate = CURVATURE_ESTIMATORS[self.curvature.kind]
            estimates = estimate(self.loaded, batch, self.batcher, self.generator.generator)
            if not all(bool(tensor.isfinite().all()) for tensor in estimates):
                raise self.make_divergence_error("curvature that is not finite")
            if self.mask:
                self.mask.apply(estimates)
            self.optimizer.update_curvature(estimates)
            self.history.count_tokens(batch, passes=PASSES_PER_ESTIMATE[self.curvature.kind])
        self.curvature_schedule.record_estimate(self.step)

    def add_gradients(self, units: Sequence[BatchUnit]) -> Losses:
        """Accumulate the gradient of the total loss, sharpness-aware if the spec sets `sharpness`."""
        add = partial(
            add_gradients,
            self.loaded,
            self.spec,
            base_scores=self.base_scores,
            batcher=self.batcher,
            retain_weight=self.retain_weight.value,
        )
        if self.spec.sharpness:
            losses = add_sharpness_aware_gradients(add, self.loaded, units, rho=self.spec.sharpness.rho)
        else:
            losses = add(units)
        if self.mask:
            self.mask.apply([parameter.grad for parameter in self.trainable.parameters])
        return losses

    def clip_gradients(self) -> float:
        """Clip the gradient's L2 norm; return the norm before."""
        return float(clip_grad_norm_(self.trainable.parameters, self.spec.training.grad_clip))

    def make_divergence_error(self, problem: str) -> TrainingDivergedError:
        """Return the error for numbers that must not reach the weights."""
        return TrainingDivergedError(
            f"{problem} at step {self.step + 1}, before its update; lower optimizer.lr, or bound the forget term "
            "(npo instead of grad_diff)",
            training_result=self.history.make_result(self.step),
        )

    def update_weights(self) -> float:
        """Take the optimizer's step and clear the gradients; return the learning rate."""
        factor = compute_lr_factor(self.spec, self.step, self.num_steps)
        with self.mask.hold_frozen(self.trainable.parameters) if self.mask else nullcontext():
            if self.trust_region:
                assert isinstance(self.optimizer, Sophia | KfacOptimizer)
                self.guard_rise = self.trust_region.take_step(self.optimizer, self.step + 1, factor)
            else:
                set_lr(self.optimizer, self.spec.optimizer.lr * factor)  # type: ignore[operator]
                self.optimizer.step()
        self.loaded.model.zero_grad(set_to_none=True)
        return float(self.optimizer.param_groups[0]["lr"])

    def finish_step(self, started_at: float, units: Sequence[BatchUnit], losses: Losses, **values: float) -> None:
        """Count the step, and store and emit its numbers."""
        row: dict[str, float | None] = {"loss": losses.total, **losses.get_term_losses(self.spec.kind), **values}
        if isinstance(self.optimizer, ClippedOptimizer):
            fraction = self.optimizer.unclipped_fraction
            if self.mask and fraction is not None:  # of the weights that the mask lets train
                fraction /= self.mask.trainable_fraction
            row["unclipped_fraction"] = fraction
            if self.curvature_schedule.is_adaptive:
                row["curvature_interval"] = self.curvature_schedule.interval
            self.curvature_schedule.record_unclipped_fraction(fraction)
            if isinstance(self.optimizer, Sophia) and self.optimizer.chooses_gamma:
                row["gamma"] = self.optimizer.gamma
        if self.trust_region:
            row["guard_rise"] = self.guard_rise
        row |= self.retain_weight.get_curve()
        self.retain_weight.update(self.step, losses.retain, units, self.base_scores)
        self.step += 1
        self.history.count_tokens(units)
        if passes := self._count_further_passes():
            self.history.count_tokens([unit for unit in units if not is_retain(unit)], passes=passes)
        self.history.record_step(self.step, started_at, row)

    def _count_further_passes(self) -> float:
        """Return the passes over the forget examples of a step beyond the first: sharpness and latent ascents."""
        num_gradients = 2 if self.spec.sharpness else 1
        num_ascents = num_gradients * self.spec.latent.steps if self.spec.latent else 0
        return num_gradients - 1 + num_ascents * PASSES_PER_LATENT_STEP

    def has_reached_end(self) -> bool:
        """Return whether the training may end before its last step: enough is forgotten, or the budget is spent."""
        if self.trust_region and self.trust_region.is_spent:
            message = "the loss on guard rows has risen by optimizer.max_rise; the training ends here"
            self.listener.emit("warning", message=f"{message}, after {self.step} of {self.num_steps} steps")
            return True
        if self.forget_progress is None or not self.forget_progress.is_reached(self.step):
            return False
        self.listener.emit(
            "log",
            message=f"the forget answers' mean probability has fallen to {self.forget_progress.value:.2g} of the base "
            f"model's; the training ends after {self.step} of {self.num_steps} steps",
        )
        return True

    def _load_or_compute_base_scores(self) -> BaseScores:
        """Return the base scores of exactly the examples that this run will use."""
        stored = BaseScores.load(self.folder, self.loaded)
        if stored is not None:
            return stored
        groups = self.batches.groups
        requests = {
            group: BaseScoreRequest(groups[group], self.batches.list_used_indices(group, self.num_steps), kinds)
            for group, kinds in collect_base_score_kinds(self.spec).items()
            if groups.get(group)
        }
        layer = find_steered_layer(self.loaded.model, self.spec)
        scores = compute_base_scores(self.loaded, requests, batcher=self.batcher, listener=self.listener, layer=layer)
        if requests:
            scores.save(self.folder)
        return scores
