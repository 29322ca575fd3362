"""Several recipes, each from the base: their changes of the weights merged, or the best one kept."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from soul_core.errors import TrainingDivergedError
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.goal import CriteriaCheck, is_met
from soul_core.pipeline.strategies.merging import merge_mean, merge_ties
from soul_core.pipeline.strategies.single import StrategyResult, train_model
from soul_core.pipeline.strategies.trials import Trial, TrialLog
from soul_core.pipeline.strategies.weights import BaseWeights, load_weights, save_weights
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Ensemble
from soul_core.training.history import TrainingResult


def run_ensemble(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Train every member from the base and leave the model with the merged, or the best, weights. A member that
    diverges is told and left out; Diverged is raised when too few are left.
    """
    strategy = spec.strategy
    assert isinstance(strategy, Ensemble)
    folder = state.folder / "ensemble"
    base = BaseWeights(model_under_test.loaded)
    goal = CriteriaCheck(model_under_test, spec, max_rows=strategy.eval_rows, folder=folder / "looks", listener=state)
    members = TrialLog(folder / "members.json")
    while len(members) < len(strategy.members):
        number, started = len(members), time.monotonic()
        state.emit("log", message=f"recipe {number + 1} of {len(strategy.members)}")
        base.restore()
        member = Trial(_flat(strategy.members[number]))
        try:
            member.trained = train_model(model_under_test, spec.make_member_spec(number), folder / f"{number}", state)
        except TrainingDivergedError as error:
            member.trained, member.outcome = error.training_result or TrainingResult(), "diverged"
            state.emit("warning", message=f"recipe {number + 1} diverged, and is left out: {error.message}")
        else:
            save_weights(model_under_test.loaded, _weights(folder, number))
            member.shortfall, member.values = goal.measure_shortfall(f"{number}")
            member.outcome = "met" if is_met(member.shortfall, goal.criteria) else "finished"
        member.seconds = time.monotonic() - started
        members.add(member)
    return _outcome(model_under_test, strategy, base, members, folder)


def _outcome(
    subject: ModelUnderTest, strategy: Ensemble, base: BaseWeights, members: TrialLog, folder: Path
) -> StrategyResult:
    left = [number for number, each in enumerate(members) if each.outcome != "diverged"]
    nearest = members.nearest_index
    if nearest is None or len(left) < (1 if strategy.merge == "best" else 2):
        raise TrainingDivergedError(
            f"{len(members) - len(left)} of {len(members)} recipes diverged, and '{strategy.merge}' needs more than "
            "are left; lower their optimizer.lr"
        )
    trained = replace(members.summarize_training(nearest), steps=sum(each.trained.steps for each in members))
    if strategy.merge == "best":
        load_weights(subject.loaded, _weights(folder, nearest))
        return StrategyResult(trained, members.make_results(nearest))
    _merge(base, [_weights(folder, number) for number in left], strategy)
    return StrategyResult(trained, members.make_results(*left))


def _merge(base: BaseWeights, paths: list[Path], strategy: Ensemble) -> None:
    for name in base.names:
        changes = [base.compute_delta(path, name) for path in paths]
        merged = merge_mean(changes) if strategy.merge == "mean" else merge_ties(changes, density=strategy.density)
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
