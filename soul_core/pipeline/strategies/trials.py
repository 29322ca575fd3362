"""The trials of a run, on disk as they go: a resumed run goes on with the interrupted one, or after the last."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soul_core.atomic_io import write_atomically
from soul_core.report import TrialOutcome, TrialResult
from soul_core.training.history import TrainingResult


@dataclass
class Trial:
    """One training from the base. `shortfall` and `values` are those of its best look, at `kept_step`; None: it had
    none.
    """

    settings: dict[str, Any]
    outcome: TrialOutcome | None = None  # None: it goes on
    shortfall: float | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    trained: TrainingResult = field(default_factory=TrainingResult)
    looks: dict[int, float] = field(default_factory=dict)  # step -> shortfall there
    kept_step: int | None = None

    def add_measurement(self, step: int, shortfall: float, values: dict[str, float | None]) -> None:
        """Remember a look; of equal ones the first is the best."""
        self.looks[step] = shortfall
        if shortfall < (math.inf if self.shortfall is None else self.shortfall):
            self.shortfall, self.values, self.kept_step = shortfall, values, step


class TrialLog(list[Trial]):
    """The trials of one file, in the order they ran."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(map(_read, json.loads(path.read_text())) if path.exists() else ())

    def add(self, trial: Trial) -> None:
        """Add one and write all down."""
        self.append(trial)
        self.write()

    def write(self) -> None:
        """Write all down as they are."""
        # adapters are tensors, and kept beside the weights
        written = [{**vars(each), "trained": {**vars(each.trained), "adapter": None}} for each in self]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(written))

    @property
    def nearest_index(self) -> int | None:
        """Return which trial came nearest to the criteria, the first of equals; None when none was looked at."""
        looked = {i: each.shortfall for i, each in enumerate(self) if each.shortfall is not None}
        return min(looked, key=lambda i: looked[i]) if looked else None

    def is_nearest(self, shortfall: float) -> bool:
        """Say whether a new look is better than all looks of all trials."""
        nearest = self.nearest_index
        least = None if nearest is None else self[nearest].shortfall
        return shortfall < (math.inf if least is None else least)

    def make_results(self, *chosen: int) -> tuple[TrialResult, ...]:
        """Return the trials as a report tells them; `chosen` are those whose weights are the result."""
        return tuple(
            TrialResult(
                number=i + 1,
                settings=each.settings,
                steps=each.trained.steps,
                outcome=each.outcome,
                shortfall=each.shortfall,
                values=each.values,
                kept_step=each.kept_step or (None if each.shortfall is None else each.trained.steps),
                seconds=round(each.seconds, 3),
                chosen=i in chosen,
            )
            for i, each in enumerate(self)
            if each.outcome is not None
        )

    def summarize_training(self, chosen: int) -> TrainingResult:
        """Return what the run took: steps and curves of one trial as far as its weights were kept, the work of all."""
        tokens, flops = (sum(getattr(each.trained, name) for each in self) for name in ("train_tokens", "flops"))
        trained, last = self[chosen].trained, self[chosen].kept_step or self[chosen].trained.steps
        curves = {name: values[:last] for name, values in trained.curves.items()}
        return replace(trained, steps=last, curves=curves, train_tokens=tokens, flops=flops)


def _read(content: Mapping[str, Any]) -> Trial:
    trained = TrainingResult(**content["trained"])
    trained.curves = {name: tuple(values) for name, values in trained.curves.items()}
    looks = {int(step): value for step, value in content["looks"].items()}
    return Trial(**{**content, "trained": trained, "looks": looks})
