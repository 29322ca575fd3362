"""Several recipes, each from the base: their changes of the weights merged, or the best one kept."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from soul_core.report import TrialOutcome
from soul_core.run_state import RunState
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Ensemble
from soul_core.strategies.goal import Goal, met
from soul_core.strategies.merging import mean_change, ties_change
from soul_core.strategies.single import Outcome, train_subject
from soul_core.strategies.trials import Trial, Trials
from soul_core.strategies.weights import BaseWeights, keep_weights, load_weights
from soul_core.subject import Subject


def ensemble(subject: Subject, spec: JobSpec, state: RunState) -> Outcome:
    """Train every member from the base and leave the model with the merged, or the best, weights."""
    strategy = spec.strategy
    assert isinstance(strategy, Ensemble)
    folder = state.folder / "ensemble"
    base = BaseWeights(subject.loaded)
    goal = Goal(subject, spec, rows=strategy.rows, folder=folder / "looks", listener=state)
    members = Trials(folder / "members.json")
    while len(members) < len(strategy.members):
        number, started = len(members), time.monotonic()
        state.emit("log", message=f"recipe {number + 1} of {len(strategy.members)}")
        base.restore()
        trained = train_subject(subject, spec.member(number), folder / f"{number}", state)
        keep_weights(subject.loaded, _weights(folder, number))
        shortfall, values = goal.look(f"{number}")
        outcome: TrialOutcome = "met" if met(shortfall, goal.criteria) else "finished"
        seconds = time.monotonic() - started
        members.keep(Trial(_flat(strategy.members[number]), outcome, shortfall, values, seconds, trained))
    chosen = members.nearest
    assert chosen is not None, "a recipe that diverges ends the job"
    trained = replace(members.cost(chosen), steps=sum(each.trained.steps for each in members))
    if strategy.merge == "best":
        load_weights(subject.loaded, _weights(folder, chosen))
        return Outcome(trained, members.results(chosen))
    _merge(base, [_weights(folder, i) for i in range(len(members))], strategy)
    return Outcome(trained, members.results(*range(len(members))))


def _merge(base: BaseWeights, paths: list[Path], strategy: Ensemble) -> None:
    for name in base.names:
        changes = [base.change(path, name) for path in paths]
        merged = mean_change(changes) if strategy.merge == "mean" else ties_change(changes, density=strategy.density)
        base.apply(name, merged)


def _weights(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if value and isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
