"""The numbers of a training: counted, stored as curves for the report, and emitted as events during the run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from soul_core.events import Listener, Phase
from soul_core.models.loading import LoadedModel
from soul_core.training.adapters import AdapterWeights
from soul_core.training.curvature_schedule import HEALTHY_UNCLIPPED_FRACTION
from soul_core.training.micro_batching import BatchUnit

#: The unclipped fraction is averaged over this many steps before it causes a warning.
_NUM_UNCLIPPED_STEPS = 10


@dataclass
class TrainingResult:
    """The numbers of a finished training for the report, and its adapters if the spec exports an adapter."""

    steps: int = 0
    train_tokens: int = 0
    flops: float = 0.0
    resumed_at_steps: list[int] = field(default_factory=list)
    curves: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    adapter: AdapterWeights | None = None


class TrainingHistory:
    """The counts and curves of a training. They are part of a checkpoint."""

    def __init__(
        self, loaded: LoadedModel, listener: Listener, phase: Phase, num_steps: int, *, warns_of_clipping: bool = True
    ) -> None:
        num_trainable = sum(parameter.numel() for parameter in loaded.model.parameters() if parameter.requires_grad)
        # 2 operations per weight for the activations forward, 2 backward, and 2 for the gradient of a trainable weight
        self._flops_per_token = 4.0 * loaded.facts.num_parameters + 2.0 * num_trainable
        self._listener, self._phase, self._num_steps = listener, phase, num_steps
        self._warns_of_clipping = warns_of_clipping
        self._curves: dict[str, list[float | None]] = {}
        self._num_tokens = 0
        self._flops = 0.0
        self._resumed_at: list[int] = []
        self._has_warned = False

    def count_tokens(self, units: Sequence[BatchUnit], *, passes: float = 1.0) -> None:
        """Count the tokens of `units` and the operations of that many forward and backward passes over them."""
        num_tokens = sum(len(item.example.token_ids) for unit in units for item in unit)
        self._num_tokens += num_tokens
        self._flops += passes * self._flops_per_token * num_tokens

    def record_step(self, step: int, started_at: float, row: dict[str, float | None]) -> None:
        """Store and emit the numbers of a step.

        Args:
            step: The number of the step, from 1.
            started_at: When it began, by `time.monotonic`.
            row: Its numbers by the name of their curve, "loss" among them.
        """
        seconds = time.monotonic() - started_at
        self._extend_curves(row)
        self._listener.emit("metrics", step=step, seconds=round(seconds, 4), tokens=self._num_tokens, **row)
        self._listener.emit(
            "progress",
            phase=self._phase,
            done=step,
            total=self._num_steps,
            unit="step",
            eta_seconds=round(seconds * (self._num_steps - step), 1),
            loss=row["loss"],
        )
        if self._warns_of_clipping:
            self._warn_of_clipping()

    def record_trial(self, number: int, started_at: float, row: dict[str, float | None]) -> None:
        """Store and emit the numbers of a trial of a step, the `number`-th from 1."""
        self._extend_curves(row)
        seconds = round(time.monotonic() - started_at, 4)
        self._listener.emit("metrics", step=number, seconds=seconds, tokens=self._num_tokens, **row)

    def record_resume(self, step: int) -> None:
        """Note that the training was resumed after `step` steps."""
        self._resumed_at.append(step)

    def make_result(self, steps: int, adapter: AdapterWeights | None = None) -> TrainingResult:
        """Return the numbers of the training after `steps` steps."""
        curves = {name: tuple(values) for name, values in self._curves.items()}
        return TrainingResult(steps, self._num_tokens, self._flops, self._resumed_at, curves, adapter)

    def state_dict(self) -> dict[str, Any]:
        """Return all counts and curves."""
        return {
            "curves": self._curves,
            "num_tokens": self._num_tokens,
            "flops": self._flops,
            "resumed_at": self._resumed_at,
            "has_warned": self._has_warned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore all counts and curves."""
        self._curves, self._num_tokens = state_dict["curves"], state_dict["num_tokens"]
        self._flops, self._resumed_at = state_dict["flops"], state_dict["resumed_at"]
        self._has_warned = state_dict["has_warned"]

    def _extend_curves(self, row: dict[str, float | None]) -> None:
        for name, value in row.items():
            self._curves.setdefault(name, []).append(value)

    def _warn_of_clipping(self) -> None:
        """Emit a warning, once, when the mean unclipped fraction of the last steps leaves the healthy range."""
        values = self._curves.get("unclipped_fraction", [])[-_NUM_UNCLIPPED_STEPS:]
        fractions = [value for value in values if value is not None]
        if self._has_warned or len(fractions) < _NUM_UNCLIPPED_STEPS:
            return
        mean, (low, high) = sum(fractions) / len(fractions), HEALTHY_UNCLIPPED_FRACTION
        if low <= mean <= high:
            return
        self._has_warned = True
        advice = "raise" if mean < low else "lower"
        self._listener.emit(
            "warning",
            message=f"{mean:.0%} of the weights were not clipped over the last {_NUM_UNCLIPPED_STEPS} steps; Sophia's "
            f"authors recommend {low:.0%} to {high:.0%}: {advice} optimizer.gamma",
        )
