"""Goal-seeking: few trials from the base, each with other settings, until one holds every criterion.

Settings are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011); a trial that is worse than
the median of the earlier ones at the same step is given up (Optuna's MedianPruner).
"""

import time
from typing import Any

from soul_core.errors import Diverged
from soul_core.report import TrialOutcome
from soul_core.run_state import RunState
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Search
from soul_core.strategies.goal import Goal, met
from soul_core.strategies.single import Outcome, steps_of, train_subject
from soul_core.strategies.trials import Trial, Trials
from soul_core.strategies.weights import BaseWeights, keep_weights, load_weights
from soul_core.subject import Subject
from soul_core.training.record import Trained

_TRIALS, _BEST = "trials.json", "best.safetensors"


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
        self._trials = Trials(self._folder / _TRIALS)

    def over(self) -> bool:
        """Say whether a criterion-holding trial was found, or nothing is left to spend."""
        spent = sum(each.seconds for each in self._trials)
        budget = self._strategy.seconds
        return (
            any(each.outcome == "met" for each in self._trials)
            or len(self._trials) >= self._strategy.trials
            or (budget is not None and bool(self._trials) and spent >= budget)
        )

    def try_next(self) -> None:
        """Train one trial from the base and write down how it ended."""
        number, started = len(self._trials), time.monotonic()
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
        if self._is_nearest(watch.shortfall):
            keep_weights(self._subject.loaded, self._folder / _BEST)
        seconds = time.monotonic() - started
        self._trials.keep(Trial(settings, watch.outcome, watch.shortfall, watch.values, seconds, trained, watch.looks))

    def outcome(self) -> Outcome:
        """Put the best trial's weights into the model. Raises Diverged when every trial did."""
        chosen = self._trials.nearest
        if chosen is None:
            raise Diverged("every trial diverged; lower the bounds of strategy.lr")
        load_weights(self._subject.loaded, self._folder / _BEST)
        return Outcome(self._trials.cost(chosen), self._trials.results(chosen))

    def _is_nearest(self, shortfall: float | None) -> bool:
        nearest = self._trials.nearest
        least = None if nearest is None else self._trials[nearest].shortfall
        return shortfall is not None and (least is None or shortfall < least)

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
        for each in self._trials:
            failed = each.shortfall is None
            study.add_trial(
                optuna.trial.create_trial(
                    params={"lr": each.settings["optimizer.lr"], "retain_weight": each.settings["retain.weight"]},
                    distributions=bounds,
                    intermediate_values=each.looks,
                    value=each.shortfall,
                    state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
                )
            )
        return study


class _Watch:
    """Looks at the criteria every few steps; says when a trial may stop."""

    def __init__(self, goal: Goal, name: str, trial: Any, every: int, last: int) -> None:
        self._goal, self._name, self._trial, self._every, self._last = goal, name, trial, every, last
        self.outcome: TrialOutcome = "finished"
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
