"""Several recipes, each from the base: their changes of the weights merged, or the best one kept."""

import json
import time
from pathlib import Path
from typing import Any

from soul_core.durable import write_durably
from soul_core.report import TrialResult
from soul_core.run_state import RunState
from soul_core.spec import JobSpec
from soul_core.spec_strategy import Ensemble
from soul_core.strategies.goal import Goal, met
from soul_core.strategies.merging import mean_change, ties_change
from soul_core.strategies.single import Outcome, train_subject
from soul_core.strategies.weights import BaseWeights, keep_weights, load_weights
from soul_core.subject import Subject
from soul_core.training_record import Trained

_RECORD = "members.json"


def ensemble(subject: Subject, spec: JobSpec, state: RunState) -> Outcome:
    """Train every member from the base and leave the model with the merged, or the best, weights."""
    strategy = spec.strategy
    assert isinstance(strategy, Ensemble)
    folder = state.folder / "ensemble"
    base = BaseWeights(subject.loaded)
    goal = Goal(subject, spec, rows=strategy.rows, folder=folder / "looks", listener=state)
    path = folder / _RECORD
    members: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    while len(members) < len(strategy.members):
        number, started = len(members), time.monotonic()
        state.emit("log", message=f"recipe {number + 1} of {len(strategy.members)}")
        base.restore()
        trained = train_subject(subject, spec.member(number), folder / f"{number}", state)
        keep_weights(subject.loaded, _weights(folder, number))
        shortfall, values = goal.look(f"{number}")
        members.append(
            {
                "steps": trained.steps,
                "outcome": "met" if met(shortfall, goal.criteria) else "finished",
                "shortfall": shortfall,
                "values": values,
                "seconds": round(time.monotonic() - started, 3),
                "trained": vars(trained),
            }
        )
        write_durably(path, json.dumps(members))
    chosen = min(range(len(members)), key=lambda i: members[i]["shortfall"])
    if strategy.merge == "best":
        load_weights(subject.loaded, _weights(folder, chosen))
    else:
        _merge(base, [_weights(folder, i) for i in range(len(members))], strategy)
    trials = tuple(
        TrialResult(
            number=i + 1,
            settings=_flat(strategy.members[i]),
            chosen=strategy.merge != "best" or i == chosen,
            **{key: each[key] for key in ("steps", "outcome", "shortfall", "values", "seconds")},
        )
        for i, each in enumerate(members)
    )
    return Outcome(_together(members, chosen), trials)


def _merge(base: BaseWeights, paths: list[Path], strategy: Ensemble) -> None:
    for name in base.names:
        changes = [base.change(path, name) for path in paths]
        merged = mean_change(changes) if strategy.merge == "mean" else ties_change(changes, density=strategy.density)
        base.apply(name, merged)


def _together(members: list[dict[str, Any]], chosen: int) -> Trained:
    """Return the counts of all recipes with the curves of the best one."""
    trained = Trained(**members[chosen]["trained"])
    trained.curves = {name: tuple(values) for name, values in trained.curves.items()}
    for count in ("steps", "train_tokens", "flops"):
        setattr(trained, count, sum(each["trained"][count] for each in members))
    return trained


def _weights(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
