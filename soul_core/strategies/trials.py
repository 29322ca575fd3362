"""The finished trials of a run, on disk as they end: a resumed run goes on after the last one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soul_core.durable import write_durably
from soul_core.report import TrialOutcome, TrialResult
from soul_core.training.record import Trained


@dataclass
class Trial:
    """How one training from the base ended. `shortfall` is its distance from the criteria; None: it diverged."""

    settings: dict[str, Any]
    outcome: TrialOutcome
    shortfall: float | None
    values: dict[str, float | None]
    seconds: float
    trained: Trained
    looks: dict[int, float] = field(default_factory=dict)  # step -> shortfall there


class Trials(list[Trial]):
    """The trials of one file, in the order they ran."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(map(_read, json.loads(path.read_text())) if path.exists() else ())

    def keep(self, trial: Trial) -> None:
        """Add one and write all down."""
        self.append(trial)
        written = [{**vars(each), "trained": vars(each.trained)} for each in self]
        write_durably(self._path, json.dumps(written))

    @property
    def nearest(self) -> int | None:
        """Return which trial came nearest to the criteria, the first of equals; None when all diverged."""
        ended = {i: each.shortfall for i, each in enumerate(self) if each.shortfall is not None}
        return min(ended, key=lambda i: ended[i]) if ended else None

    def results(self, *chosen: int) -> tuple[TrialResult, ...]:
        """Return the trials as a report tells them; `chosen` are those whose weights are the result."""
        return tuple(
            TrialResult(
                number=i + 1,
                settings=each.settings,
                steps=each.trained.steps,
                outcome=each.outcome,
                shortfall=each.shortfall,
                values=each.values,
                seconds=round(each.seconds, 3),
                chosen=i in chosen,
            )
            for i, each in enumerate(self)
        )

    def cost(self, shown: int) -> Trained:
        """Return what the run took: the curves and steps of one trial, the work of all of them."""
        tokens, flops = (sum(getattr(each.trained, name) for each in self) for name in ("train_tokens", "flops"))
        return replace(self[shown].trained, train_tokens=tokens, flops=flops)


def _read(content: Mapping[str, Any]) -> Trial:
    trained = Trained(**content["trained"])
    trained.curves = {name: tuple(values) for name, values in trained.curves.items()}
    looks = {int(step): value for step, value in content["looks"].items()}
    return Trial(**{**content, "trained": trained, "looks": looks})
