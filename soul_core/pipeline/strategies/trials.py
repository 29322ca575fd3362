"""The trials of a run, saved as they run: a resumed run continues the interrupted trial, or starts the next."""

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
    """One training from the base model."""

    settings: dict[str, Any]
    outcome: TrialOutcome | None = None
    """None while it runs."""
    shortfall: float | None = None
    """Of its best criteria check, like `values` and `kept_step`; None if it had no check."""
    values: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    training_result: TrainingResult = field(default_factory=TrainingResult)
    shortfalls: dict[int, float] = field(default_factory=dict)
    """Step -> shortfall of the criteria check after it."""
    kept_step: int | None = None

    def add_check(self, step: int, shortfall: float, values: dict[str, float | None]) -> None:
        """Add a criteria check; the first of equal ones is the best."""
        self.shortfalls[step] = shortfall
        if shortfall < (math.inf if self.shortfall is None else self.shortfall):
            self.shortfall, self.values, self.kept_step = shortfall, values, step


class TrialLog(list[Trial]):
    """The trials of one file, in the order in which they ran."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(map(_parse_trial, json.loads(path.read_bytes())) if path.exists() else ())

    def add(self, trial: Trial) -> None:
        """Add a trial and save the file."""
        self.append(trial)
        self.save()

    def save(self) -> None:
        """Save all trials as they are now; adapters are tensors, and saved with the weights."""
        content = [
            {**vars(trial), "training_result": {**vars(trial.training_result), "adapter": None}} for trial in self
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, json.dumps(content))

    @property
    def nearest_index(self) -> int | None:
        """Index of the trial with the smallest shortfall, the first of equal ones; None if none had a check."""
        shortfalls = {i: trial.shortfall for i, trial in enumerate(self) if trial.shortfall is not None}
        return min(shortfalls, key=lambda i: shortfalls[i]) if shortfalls else None

    def is_nearest(self, shortfall: float) -> bool:
        """Return whether a new check is better than all checks of all trials."""
        nearest = self.nearest_index
        smallest = None if nearest is None else self[nearest].shortfall
        return shortfall < (math.inf if smallest is None else smallest)

    def make_results(self, *chosen: int) -> tuple[TrialResult, ...]:
        """Return the finished trials for the report; the weights of `chosen` are, or went into, the result."""
        return tuple(
            TrialResult(
                number=i + 1,
                settings=trial.settings,
                steps=trial.training_result.steps,
                outcome=trial.outcome,
                shortfall=trial.shortfall,
                values=trial.values,
                kept_step=trial.kept_step or (None if trial.shortfall is None else trial.training_result.steps),
                seconds=round(trial.seconds, 3),
                chosen=i in chosen,
            )
            for i, trial in enumerate(self)
            if trial.outcome is not None
        )

    def summarize_training(self, chosen: int) -> TrainingResult:
        """Return steps and curves of one trial up to the step whose weights were kept, with the work of all trials."""
        tokens = sum(trial.training_result.train_tokens for trial in self)
        flops = sum(trial.training_result.flops for trial in self)
        result = self[chosen].training_result
        last_step = self[chosen].kept_step or result.steps
        curves = {name: values[:last_step] for name, values in result.curves.items()}
        return replace(result, steps=last_step, curves=curves, train_tokens=tokens, flops=flops)


def _parse_trial(content: Mapping[str, Any]) -> Trial:
    result = TrainingResult(**content["training_result"])
    result.curves = {name: tuple(values) for name, values in result.curves.items()}
    shortfalls = {int(step): value for step, value in content["shortfalls"].items()}
    return Trial(**{**content, "training_result": result, "shortfalls": shortfalls})
