"""Goal-seeking: few trials from the base, each with other settings, until one holds every criterion.

Settings are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011); a trial that is worse than
the median of the earlier ones at the same step is given up (Optuna's MedianPruner).
"""

import json
import time
from typing import Any

from soul_core.durable import write_durably
from soul_core.errors import Diverged
from soul_core.report import TrialResult
from soul_core.run_state import RunState
from soul_core.spec import JobSpec
from soul_core.spec_strategy import Search
from soul_core.strategies.goal import Goal, met
from soul_core.strategies.single import Outcome, steps_of, train_subject
from soul_core.strategies.weights import BaseWeights, keep_weights, load_weights
from soul_core.subject import Subject
from soul_core.training_record import Trained

_RECORD, _BEST = "trials.json", "best.safetensors"


def search(subject: Subject, spec: JobSpec, state: RunState) -> Outcome:
    """Leave the model with the weights of the best trial: the first that held all criteria, else the nearest to it."""
    strategy = spec.strategy
    assert isinstance(strategy, Search)
    run = _Search(subject, spec, strategy, state)
    while not run.over():
        run.try_next()
    return run.outcome()


class _Search:
    """The trials so far, and how the next one goes."""

    def __init__(self, subject: Subject, spec: JobSpec, strategy: Search, state: RunState) -> None:
        self._subject, self._spec, self._strategy, self._state = subject, spec, strategy, state
        self._folder = state.folder / "search"
        self._base = BaseWeights(subject.loaded)
        self._goal = Goal(subject, spec, rows=strategy.rows, folder=self._folder / "looks", listener=state)
        path = self._folder / _RECORD
        self._kept: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def over(self) -> bool:
        """Say whether a criterion-holding trial was found, or nothing is left to spend."""
        spent = sum(each["seconds"] for each in self._kept)
        budget = self._strategy.seconds
        return (
            any(each["outcome"] == "met" for each in self._kept)
            or len(self._kept) >= self._strategy.trials
            or (budget is not None and bool(self._kept) and spent >= budget)
        )

    def try_next(self) -> None:
        """Train one trial from the base and write down how it ended."""
        number, started = len(self._kept), time.monotonic()
        study = self._study(number)
        trial = study.ask()
        settings = {
            "optimizer.lr": trial.suggest_float("lr", *self._strategy.lr, log=True),
            "retain.weight": trial.suggest_float("retain_weight", *self._strategy.retain_weight, log=True),
        }
        spec = with_settings(self._spec, settings)
        self._state.emit(
            "log", message=f"trial {number + 1}: " + ", ".join(f"{k} {v:.3g}" for k, v in settings.items())
        )
        self._base.restore()
        watch = _Watch(self._goal, f"{number}", trial, self._strategy.check_every, steps_of(self._subject, spec))
        try:
            trained = train_subject(self._subject, spec, self._folder / f"{number}", self._state, watch=watch)
        except Diverged as error:
            trained, watch.outcome, watch.shortfall = Trained(), "diverged", None
            self._state.emit("warning", message=f"trial {number + 1} diverged: {error.message}")
        best = min((each["shortfall"] for each in self._kept if each["shortfall"] is not None), default=float("inf"))
        if watch.shortfall is not None and watch.shortfall < best:
            keep_weights(self._subject.loaded, self._folder / _BEST)
        self._keep(settings, watch, trained, time.monotonic() - started)

    def outcome(self) -> Outcome:
        """Put the best trial's weights into the model. Raises Diverged when every trial did."""
        ended = [i for i, each in enumerate(self._kept) if each["shortfall"] is not None]
        if not ended:
            raise Diverged("every trial diverged; lower the bounds of strategy.lr")
        chosen = min(ended, key=lambda i: self._kept[i]["shortfall"])
        load_weights(self._subject.loaded, self._folder / _BEST)
        trained = Trained(**self._kept[chosen]["trained"])
        trained.curves = {name: tuple(values) for name, values in trained.curves.items()}
        trained.train_tokens = sum(each["trained"]["train_tokens"] for each in self._kept)
        trained.flops = sum(each["trained"]["flops"] for each in self._kept)
        trials = tuple(
            TrialResult(
                number=i + 1,
                chosen=i == chosen,
                **{key: each[key] for key in ("settings", "steps", "outcome", "shortfall", "values", "seconds")},
            )
            for i, each in enumerate(self._kept)
        )
        return Outcome(trained, trials)

    def _study(self, number: int) -> Any:
        """Return a study that knows the earlier trials. Its sampler depends on seed and number alone: a resumed search
        proposes what an undisturbed one would.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=self._spec.seed + number, n_startup_trials=3),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=self._strategy.check_every),
        )
        bounds: dict[str, optuna.distributions.BaseDistribution] = {
            "lr": optuna.distributions.FloatDistribution(*self._strategy.lr, log=True),
            "retain_weight": optuna.distributions.FloatDistribution(*self._strategy.retain_weight, log=True),
        }
        for each in self._kept:
            failed = each["shortfall"] is None
            study.add_trial(
                optuna.trial.create_trial(
                    params={"lr": each["settings"]["optimizer.lr"], "retain_weight": each["settings"]["retain.weight"]},
                    distributions=bounds,
                    intermediate_values={int(step): value for step, value in each["looks"].items()},
                    value=None if failed else each["shortfall"],
                    state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                )
            )
        return study

    def _keep(self, settings: dict[str, float], watch: "_Watch", trained: Trained, seconds: float) -> None:
        self._kept.append(
            {
                "settings": settings,
                "steps": trained.steps,
                "outcome": watch.outcome,
                "shortfall": watch.shortfall,
                "values": watch.values,
                "looks": watch.looks,
                "seconds": round(seconds, 3),
                "trained": vars(trained),
            }
        )
        write_durably(self._folder / _RECORD, json.dumps(self._kept))


class _Watch:
    """Looks at the criteria every few steps; says when a trial may stop."""

    def __init__(self, goal: Goal, name: str, trial: Any, every: int, last: int) -> None:
        self._goal, self._name, self._trial, self._every, self._last = goal, name, trial, every, last
        self.outcome = "finished"
        self.shortfall: float | None = None
        self.values: dict[str, float | None] = {}
        self.looks: dict[int, float] = {}

    def __call__(self, step: int) -> bool:
        if step % self._every and step != self._last:
            return False
        self.shortfall, self.values = self._goal.look(f"{self._name}-{step}")
        self.looks[step] = self.shortfall
        self._trial.report(self.shortfall, step)
        if met(self.shortfall, self._goal.criteria):
            self.outcome = "met"
        elif self._trial.should_prune() and step != self._last:
            self.outcome = "pruned"
        return self.outcome != "finished"


def with_settings(spec: JobSpec, settings: dict[str, float]) -> JobSpec:
    """Return the spec with other values at dotted places."""
    content = spec.model_dump()
    for place, value in settings.items():
        *path, last = place.split(".")
        part = content
        for key in path:
            part = part[key]
        if last in part:  # the retain term `none` has no weight
            part[last] = value
    return JobSpec.model_validate(content)
