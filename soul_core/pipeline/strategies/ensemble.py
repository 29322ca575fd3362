"""Several recipes, each from the base: their changes of the weights merged, or the best one kept."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from soul_core.errors import Diverged
from soul_core.pipeline.model_under_test import Subject
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.goal import Goal, met
from soul_core.pipeline.strategies.merging import mean_change, ties_change
from soul_core.pipeline.strategies.single import Outcome, train_subject
from soul_core.pipeline.strategies.trials import Trial, Trials
from soul_core.pipeline.strategies.weights import BaseWeights, keep_weights, load_weights
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Ensemble
from soul_core.training.history import Trained


def ensemble(subject: Subject, spec: JobSpec, state: RunState) -> Outcome:
    """Train every member from the base and leave the model with the merged, or the best, weights. A member that
    diverges is told and left out; Diverged is raised when too few are left.
    """
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
        member = Trial(_flat(strategy.members[number]))
        try:
            member.trained = train_subject(subject, spec.member(number), folder / f"{number}", state)
        except Diverged as error:
            member.trained, member.outcome = error.trained or Trained(), "diverged"
            state.emit("warning", message=f"recipe {number + 1} diverged, and is left out: {error.message}")
        else:
            keep_weights(subject.loaded, _weights(folder, number))
            member.shortfall, member.values = goal.look(f"{number}")
            member.outcome = "met" if met(member.shortfall, goal.criteria) else "finished"
        member.seconds = time.monotonic() - started
        members.keep(member)
    return _outcome(subject, strategy, base, members, folder)


def _outcome(subject: Subject, strategy: Ensemble, base: BaseWeights, members: Trials, folder: Path) -> Outcome:
    left = [number for number, each in enumerate(members) if each.outcome != "diverged"]
    nearest = members.nearest
    if nearest is None or len(left) < (1 if strategy.merge == "best" else 2):
        raise Diverged(
            f"{len(members) - len(left)} of {len(members)} recipes diverged, and '{strategy.merge}' needs more than "
            "are left; lower their optimizer.lr"
        )
    trained = replace(members.cost(nearest), steps=sum(each.trained.steps for each in members))
    if strategy.merge == "best":
        load_weights(subject.loaded, _weights(folder, nearest))
        return Outcome(trained, members.results(nearest))
    _merge(base, [_weights(folder, number) for number in left], strategy)
    return Outcome(trained, members.results(*left))


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
