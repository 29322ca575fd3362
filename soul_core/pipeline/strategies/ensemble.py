"""Several recipes, each trained from the base model: their weight changes are merged, or the best one is chosen."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from soul_core.errors import TrainingDivergedError
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.criteria_check import CriteriaCheck
from soul_core.pipeline.strategies.merging import merge_mean, merge_ties
from soul_core.pipeline.strategies.single import StrategyResult, train_model
from soul_core.pipeline.strategies.trials import Trial, TrialLog
from soul_core.pipeline.strategies.weights import BaseWeights, load_weights, save_weights
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Ensemble
from soul_core.training.history import TrainingResult


def run_ensemble(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Train every member from the base model and leave the merged, or the best, weights in the model.

    A member that diverges is left out, with a warning. Raises TrainingDivergedError if too few members are left.
    """
    strategy = spec.strategy
    assert isinstance(strategy, Ensemble)
    folder = state.folder / "ensemble"
    base = BaseWeights(model_under_test.loaded)
    check = CriteriaCheck(model_under_test, spec, max_rows=strategy.eval_rows, folder=folder / "checks", listener=state)
    members = TrialLog(folder / "members.json")
    while len(members) < len(strategy.members):
        number, started_at = len(members), time.monotonic()
        state.emit("log", message=f"recipe {number + 1} of {len(strategy.members)}")
        base.restore()
        member = Trial(_flatten(strategy.members[number]))
        try:
            member_spec = spec.make_member_spec(number)
            member.training_result = train_model(model_under_test, member_spec, folder / f"{number}", state)
        except TrainingDivergedError as error:
            member.training_result, member.outcome = error.training_result or TrainingResult(), "diverged"
            state.emit("warning", message=f"recipe {number + 1} diverged and is left out: {error.message}")
        else:
            save_weights(model_under_test.loaded, _make_path(folder, number))
            member.shortfall, member.values = check.measure_shortfall(f"{number}")
            member.outcome = "met" if check.is_met(member.shortfall) else "finished"
        member.seconds = time.monotonic() - started_at
        members.add(member)
    return _combine(model_under_test, strategy, base, members, folder)


def _combine(
    model_under_test: ModelUnderTest, strategy: Ensemble, base: BaseWeights, members: TrialLog, folder: Path
) -> StrategyResult:
    """Put the chosen or merged weights into the model."""
    converged = [number for number, member in enumerate(members) if member.outcome != "diverged"]
    nearest = members.nearest_index
    if nearest is None or len(converged) < (1 if strategy.merge == "best" else 2):
        num_diverged = len(members) - len(converged)
        raise TrainingDivergedError(
            f"{num_diverged} of {len(members)} recipes diverged, and '{strategy.merge}' needs more than are left; "
            "lower their optimizer.lr"
        )
    num_steps = sum(member.training_result.steps for member in members)
    training_result = replace(members.summarize_training(nearest), steps=num_steps)
    if strategy.merge == "best":
        load_weights(model_under_test.loaded, _make_path(folder, nearest))
        return StrategyResult(training_result, members.make_results(nearest))
    for name in base.names:
        deltas = [base.compute_delta(_make_path(folder, number), name) for number in converged]
        merged = merge_mean(deltas) if strategy.merge == "mean" else merge_ties(deltas, density=strategy.density)
        base.apply(name, merged)
    return StrategyResult(training_result, members.make_results(*converged))


def _make_path(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted place -> value of nested settings."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if value and isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
