"""The numbers of a training: counted, kept as curves for the report, told to the listener while they arise."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from soul_core.events import Listener, Phase
from soul_core.models.loading import LoadedModel
from soul_core.training.adapters import AdapterWeights
from soul_core.training.curvature_schedule import HEALTHY_UNCLIPPED_FRACTION
from soul_core.training.micro_batching import BatchUnit

#: Steps over which that share is averaged before it is worth a warning.
_UNCLIPPED_STEPS = 10


@dataclass
class TrainingResult:
    """What a finished training tells the report; and its adapters, where they are what the spec wants left behind."""

    steps: int = 0
    train_tokens: int = 0
    flops: float = 0.0
    resumed_at_steps: list[int] = field(default_factory=list)
    curves: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    adapter: AdapterWeights | None = None


class TrainingHistory:
    """The counts and curves of a run. Its state goes into the checkpoint."""

    def __init__(self, loaded: LoadedModel, listener: Listener, phase: Phase, num_steps: int) -> None:
        moving = sum(each.numel() for each in loaded.model.parameters() if each.requires_grad)
        # forward and backward of the activations 2 operations a weight each, the weights' own gradients 2 more
        self._flops_per_token = 4.0 * loaded.facts.num_parameters + 2.0 * moving
        self._listener, self._phase, self._num_steps = listener, phase, num_steps
        self._curves: dict[str, list[float | None]] = {}
        self._tokens = 0
        self._flops = 0.0
        self._resumed_at: list[int] = []
        self._warned = False

    def count_tokens(self, units: Sequence[BatchUnit], *, passes: float = 1.0) -> None:
        """Count the tokens of `units` and the work of so many forward and backward passes over them."""
        tokens = sum(len(item.example.token_ids) for unit in units for item in unit)
        self._tokens += tokens
        self._flops += passes * self._flops_per_token * tokens

    def record_step(self, step: int, started_at: float, row: dict[str, float | None]) -> None:
        """Keep and tell the numbers of the step that has just been taken, the `step`-th; `row` has its "loss"."""
        seconds = time.monotonic() - started_at
        self._keep(row)
        self._listener.emit("metrics", step=step, seconds=round(seconds, 4), tokens=self._tokens, **row)
        self._listener.emit(
            "progress",
            phase=self._phase,
            done=step,
            total=self._num_steps,
            unit="step",
            eta_seconds=round(seconds * (self._num_steps - step), 1),
            loss=row["loss"],
        )
        self._watch_clipping()

    def record_trial(self, number: int, started_at: float, row: dict[str, float | None]) -> None:
        """Keep and tell the numbers of the `number`-th trial of a step."""
        self._keep(row)
        seconds = round(time.monotonic() - started_at, 4)
        self._listener.emit("metrics", step=number, seconds=seconds, tokens=self._tokens, **row)

    def make_result(self, steps: int, adapter: AdapterWeights | None = None) -> TrainingResult:
        """Return the numbers of the finished training."""
        curves = {name: tuple(values) for name, values in self._curves.items()}
        return TrainingResult(steps, self._tokens, self._flops, self._resumed_at, curves, adapter)

    def state_dict(self) -> dict[str, Any]:
        """Return everything counted so far, as plain values."""
        return {
            "curves": self._curves,
            "tokens": self._tokens,
            "flops": self._flops,
            "resumed_at": self._resumed_at,
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Go on from a state of the same run, saved at `step`."""
        self._curves, self._tokens, self._flops = state["curves"], state["tokens"], state["flops"]
        self._resumed_at = [*state["resumed_at"], step]
        self._warned = state["warned"]

    def _keep(self, row: dict[str, float | None]) -> None:
        for name, value in row.items():
            self._curves.setdefault(name, []).append(value)

    def _watch_clipping(self) -> None:
        values = self._curves.get("unclipped_fraction", [])[-_UNCLIPPED_STEPS:]
        recent = [value for value in values if value is not None]
        low, high = HEALTHY_UNCLIPPED_FRACTION
        if self._warned or len(recent) < _UNCLIPPED_STEPS or low <= sum(recent) / len(recent) <= high:
            return
        self._warned = True
        mean = sum(recent) / len(recent)
        advice = "raise" if mean < low else "lower"
        self._listener.emit(
            "warning",
            message=f"{mean:.0%} of the weights moved unclipped over the last {_UNCLIPPED_STEPS} steps; Sophia's "
            f"authors want {low:.0%} to {high:.0%}: {advice} optimizer.gamma",
        )
