"""Chooses the learning rate of each step so that the loss on guard rows rises by at most a budget over the run.

A step lr * u is predicted to raise the guard loss by lr^2 * 1/2 u'Hu nats per token, H the curvature that Sophia
estimates. Each step may raise it by its share of the budget. The diagonal H says nothing about how steps add up, so
what the loss really did decides: a step that raises it too far is cut, and the share is multiplied by a factor that
grows while the rise is below plan and shrinks while it is above (as the radius of a trust region does; Nocedal and
Wright 2006, section 4.1).

Ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from soul_core.data.encoding import Example
from soul_core.models.loading import LoadedModel
from soul_core.objectives.terms import ExampleGroup
from soul_core.optimizers.kfac import KfacOptimizer
from soul_core.optimizers.sophia import Sophia
from soul_core.spec import JobSpec
from soul_core.spec import optimizers as spec_optimizers
from soul_core.training.micro_batching import MicroBatcher
from soul_core.training.schedule import NUM_GUARD_ROWS
from soul_core.training.watched_rows import WatchedRows

#: The factor grows by this where the rise is below plan, and shrinks by SHRINK where it is above.
GROW, SHRINK = 1.5, 0.5
#: A step that raises the loss too far is cut to this part of its length, at most MAX_CUTS times.
CUT, MAX_CUTS = 0.3, 6
#: The largest learning rate, as a fraction of the weights' root mean square: where curvature is too small to matter.
MAX_RELATIVE_LR = 4e-4
#: An optimizer that predicts no rise takes at most this part of that rate: it does not see what larger steps break.
UNPREDICTED_PART = 0.5
#: Adapters start near zero, and their steps are ten times those of complete matrices.
LORA_FACTOR = 10


class TrustRegion:
    """The learning rate of a run. Its state is part of a checkpoint."""

    def __init__(self, guard: WatchedRows, *, budget: float, num_steps: int, weight_rms: float) -> None:
        """Start a run: the model is still the base model.

        Args:
            budget: Rise of the mean NLL of guard rows that the run may cause, in nats per token.
            weight_rms: Root mean square of the trained weights.
        """
        self._guard, self._base_nlls = guard, guard.compute_nlls()
        self._budget, self._num_steps, self._max_lr = budget, num_steps, MAX_RELATIVE_LR * weight_rms
        self._factor = 1.0
        self._rise = 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent."""
        return self._rise >= self._budget

    def take_step(self, optimizer: Sophia | KfacOptimizer, step: int, factor: float) -> float:
        """Take step number `step` (from 1) by the optimizer; return the rise after it, in nats per token.

        Args:
            factor: Of the learning rate, by the run's schedule.
        """
        set_lr(optimizer, factor * self.choose_lr(optimizer.predict_rise()))
        optimizer.step()
        return self.bound_step(step, optimizer.shorten_step)

    def choose_lr(self, unit_prediction: float | None) -> float:
        """Return the learning rate of the next step.

        Args:
            unit_prediction: 1/2 u'Hu: the predicted rise of a step of learning rate 1; None: unknown.
        """
        if unit_prediction is None:
            return UNPREDICTED_PART * self._max_lr * min(1.0, math.sqrt(self._factor))
        share = self._factor * self._budget / self._num_steps
        if unit_prediction <= 0:
            return self._max_lr
        return min(math.sqrt(share / unit_prediction), self._max_lr)

    def bound_step(self, step: int, shorten: Callable[[float], None]) -> float:
        """Measure the guard loss after step number `step` (from 1) and shorten that step until its rise is acceptable.

        A step is acceptable if the loss is at most one share above plan, or if the step itself did not raise it.

        Args:
            shorten: Changes the last step to a fraction of its length.

        Returns:
            The rise after it, in nats per token.
        """
        share, before = self._budget / self._num_steps, self._rise
        plan = share * step
        self._rise = self._measure_rise()
        num_cuts = 0
        while self._rise > max(plan + share, before) and num_cuts < MAX_CUTS:
            shorten(CUT)
            num_cuts += 1
            self._rise = self._measure_rise()
        if num_cuts:
            self._factor *= CUT ** (2 * num_cuts)  # the predicted rise is quadratic in the step
        else:
            self._factor *= GROW if self._rise <= plan else SHRINK
        return self._rise

    def _measure_rise(self) -> float:
        """Return the mean over rows of max(0, NLL - the base model's): what some rows gain pays for no other's loss."""
        pairs = zip(self._guard.compute_nlls(), self._base_nlls, strict=True)
        return sum(max(0.0, nll - base) for nll, base in pairs) / len(self._base_nlls)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and the last rise."""
        return {"factor": self._factor, "rise": self._rise, "base_nlls": self._base_nlls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue a saved run."""
        self._factor, self._rise, self._base_nlls = state["factor"], state["rise"], state["base_nlls"]


def make_trust_region(
    loaded: LoadedModel,
    spec: JobSpec,
    groups: Mapping[ExampleGroup, Sequence[Example]],
    batcher: MicroBatcher,
    parameters: Sequence[torch.nn.Parameter],
    num_steps: int,
) -> TrustRegion | None:
    """Return the trust region of a run with `lr: auto`, on guard rows or, without any, on retain rows."""
    if not isinstance(spec.optimizer, spec_optimizers.Sophia | spec_optimizers.Kfac) or spec.optimizer.lr != "auto":
        return None
    examples = groups.get("guard") or groups["retain"] or groups["forget"]
    return TrustRegion(
        WatchedRows(loaded, examples[:NUM_GUARD_ROWS], batcher),
        budget=spec.optimizer.max_rise,
        num_steps=num_steps,
        weight_rms=compute_rms(parameters) * (LORA_FACTOR if spec.lora else 1),
    )


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def compute_rms(parameters: Sequence[torch.nn.Parameter]) -> float:
    """Return the root mean square of all weights."""
    squares = sum(float(parameter.detach().float().square().sum()) for parameter in parameters)
    return math.sqrt(squares / sum(parameter.numel() for parameter in parameters))
