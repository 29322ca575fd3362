"""Rows that are scored between two steps: guard rows, whose loss bounds the step, and forget rows, whose probability
ends the training.
"""

from collections.abc import Sequence
from typing import Any

import torch

from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.spec import JobKind, JobSpec
from soul_core.training.micro_batching import BatchItem, MicroBatcher
from soul_core.training.schedule import MAX_FORGET_ROWS, SCORE_EVERY


class WatchedRows:
    """A few rows of one set, and the model that scores them."""

    def __init__(self, loaded: LoadedModel, examples: Sequence[Example], batcher: MicroBatcher) -> None:
        self._loaded, self._batcher = loaded, batcher
        self._units = [(BatchItem("guard", index, example),) for index, example in enumerate(examples)]

    @torch.no_grad()
    def compute_nlls(self) -> list[float]:
        """Return each row's mean NLL per token under the model as it is now, in nats."""
        nlls: list[float] = []

        def work(items: list[BatchItem]) -> None:
            # not in bfloat16: its rounding changes a short answer's NLL by more than a step may
            with torch.autocast(self._loaded.device.type, enabled=False):
                scores = score(self._loaded.model, pack([item.example for item in items], self._loaded.device))
            nlls.extend((-scores.sequence_logp_B.double() / scores.length_B).tolist())

        self._batcher.run(self._units, work, undo=nlls.clear)
        return nlls

    def compute_mean_probability(self) -> float:
        """Return the mean over rows of exp(-NLL per token), the report's metric `probability`."""
        values = torch.tensor(self.compute_nlls()).neg().exp()
        return float(values.mean())


class ForgetProgress:
    """Whether the forget answers' mean probability has fallen to a factor of the base model's."""

    def __init__(
        self, loaded: LoadedModel, examples: Sequence[Example], batcher: MicroBatcher, *, stop_at: float
    ) -> None:
        """Score the base model."""
        stride = -(-len(examples) // MAX_FORGET_ROWS)
        self._rows = WatchedRows(loaded, examples[::stride], batcher)
        self._stop_at, self._base = stop_at, self._rows.compute_mean_probability()
        self.value = 1.0
        """The last measured factor."""

    def is_reached(self, step: int) -> bool:
        """Return whether the factor is reached after `step` steps, measured every `SCORE_EVERY` of them."""
        if step % SCORE_EVERY:
            return False
        self.value = self._rows.compute_mean_probability() / self._base
        return self.value <= self._stop_at

    def state_dict(self) -> dict[str, Any]:
        """Return the base model's probability."""
        return {"base": self._base}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the probability of the base model, which training has changed since."""
        self._base = state["base"]


def make_forget_progress(
    loaded: LoadedModel, spec: JobSpec, forget: Sequence[Example], batcher: MicroBatcher
) -> ForgetProgress | None:
    """Return what ends the training of a spec with `training.stop_at`; None in a job that forgets nothing.

    None too where the model learns what to say instead (`after`): that takes its steps after the answer is forgotten.
    """
    if spec.training.stop_at is None or not forget or spec.kind != JobKind.UNLEARN or spec.after.kind != "none":
        return None
    return ForgetProgress(loaded, forget, batcher, stop_at=spec.training.stop_at)
