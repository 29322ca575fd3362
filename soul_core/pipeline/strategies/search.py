"""Goal-seeking: few trials from the base, each with other settings, until one holds every criterion.

Settings are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), behind the spec's own, which
come first; a trial that is worse than the median of the earlier ones at the same step is given up (Optuna's
MedianPruner). The weights of the best look of all are on disk, and written down as the best only behind that.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from soul_core.errors import TrainingDivergedError
from soul_core.evaluation.verdict import format_criterion
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.goal import CriteriaCheck, is_met
from soul_core.pipeline.strategies.single import StrategyResult, count_steps, train_model
from soul_core.pipeline.strategies.trials import Trial, TrialLog
from soul_core.pipeline.strategies.weights import BaseWeights, load_trainable, save_trainable
from soul_core.report import TrialOutcome
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Search, make_search_space
from soul_core.training.history import TrainingResult
from soul_core.training.trainable import TrainableParameters


def run_search(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Leave the model with the weights of the best look: the first that held all criteria, else the nearest to it."""
    strategy = spec.strategy
    assert isinstance(strategy, Search)
    run = _Search(model_under_test, spec, strategy, state)
    while not run.over():
        run.try_next()
    return run.outcome()


class _Search:
    """The trials so far, and how the next one goes."""

    def __init__(self, subject: ModelUnderTest, spec: JobSpec, strategy: Search, state: RunState) -> None:
        self._subject, self._spec, self._strategy, self._state = subject, spec, strategy, state
        self._folder = state.folder / "search"
        self._base = BaseWeights(subject.loaded)
        self._goal = CriteriaCheck(
            subject, spec, max_rows=strategy.eval_rows, folder=self._folder / "looks", listener=state
        )
        self._goal.require_bounds()
        if later := [
            format_criterion(each) for each in spec.expand_criteria(subject.datasets) if each not in self._goal.criteria
        ]:
            state.emit("log", message=f"not looked at while searching, left to the verdict: {', '.join(later)}")
        self._trials = TrialLog(self._folder / "trials.json")

    def over(self) -> bool:
        """Say whether a criterion-holding trial was found, or nothing is left to spend."""
        if not self._trials or self._trials[-1].outcome is None:
            return False
        spent, budget = sum(each.seconds for each in self._trials), self._strategy.max_seconds
        return (
            self._trials[-1].outcome == "met"
            or len(self._trials) >= self._strategy.trials
            or (budget is not None and spent >= budget)
        )

    def try_next(self) -> None:
        """Train one trial from the base, or go on with the interrupted one, and write down how it ended."""
        goes_on = bool(self._trials) and self._trials[-1].outcome is None
        number = len(self._trials) - goes_on
        proposed = _propose(self._spec, self._trials[:number], eval_every=self._strategy.eval_every)
        if not goes_on:
            self._trials.add(Trial(proposed.params))
        trial = self._trials[number]
        self._state.emit(
            "log", message=f"trial {number + 1}: " + ", ".join(f"{k} {v:.3g}" for k, v in trial.settings.items())
        )
        spec = apply_settings(self._spec, trial.settings)
        self._base.restore()
        watch = _Watch(
            self._goal,
            self._trials,
            proposed,
            folder=self._folder,
            every=self._strategy.eval_every,
            last=count_steps(self._subject, spec),
        )
        try:
            trial.trained = train_model(self._subject, spec, self._folder / f"{number}", self._state, watch=watch)
            trial.outcome = watch.outcome
        except TrainingDivergedError as error:
            trial.trained, trial.outcome = error.training_result or TrainingResult(), "diverged"
            self._state.emit("warning", message=f"trial {number + 1} diverged: {error.message}")
        finally:
            watch.write()  # an interrupted trial has cost its seconds too
        shutil.rmtree(self._folder / f"{number}", ignore_errors=True)  # its checkpoints

    def outcome(self) -> StrategyResult:
        """Put the best look's weights into the model. Raises Diverged when no trial came to a look."""
        chosen = self._trials.nearest_index
        if chosen is None:
            raise TrainingDivergedError(
                "every trial diverged before a look; lower optimizer.lr, or the bounds strategy.lr"
            )
        adapter = load_trainable(self._subject.loaded, _best(self._folder, chosen, self._trials[chosen].kept_step))
        trained = self._trials.summarize_training(chosen)
        trained.adapter = adapter
        return StrategyResult(trained, self._trials.make_results(chosen))


class _Watch:
    """Looks at the criteria of the newest trial every few steps, keeps what is best, says when the trial may stop."""

    def __init__(
        self, goal: CriteriaCheck, trials: TrialLog, proposed: Any, *, folder: Path, every: int, last: int
    ) -> None:
        self._goal, self._trials, self._proposed, self._folder = goal, trials, proposed, folder
        self._every, self._last = every, last
        self._trial = trials[-1]
        self._started = time.monotonic() - self._trial.seconds
        self._told = 0
        self.outcome: TrialOutcome = "finished"

    def __call__(self, step: int, movable: TrainableParameters) -> bool:
        if step % self._every and step != self._last:
            return False
        if step not in self._trial.looks:  # else a resumed training comes by again
            self._look(step, movable)
        self._tell(step)
        if is_met(self._trial.looks[step], self._goal.criteria):
            self.outcome = "met"
        elif step != self._last and self._proposed.should_prune():
            self.outcome = "pruned"
        return self.outcome != "finished"

    def write(self) -> None:
        """Bring the trial on disk up to date."""
        self._trial.seconds = time.monotonic() - self._started
        self._trials.write()

    def _look(self, step: int, movable: TrainableParameters) -> None:
        """Look and write that down; before it the weights, if they are the best: what is called the best is there."""
        number = len(self._trials) - 1
        shortfall, values = self._goal.measure_shortfall(f"{number}-{step}")
        if None in values.values():  # the base had them all: these weights give no numbers
            shortfall = math.inf
        best = _best(self._folder, number, step) if self._trials.is_nearest(shortfall) else None
        if best:
            save_trainable(movable, best)
        self._trial.add_measurement(step, shortfall, values)
        self.write()
        for other in self._folder.glob("best-*") if best else ():
            if other != best:
                shutil.rmtree(other)

    def _tell(self, step: int) -> None:
        """Report the looks up to this step, those before an interruption included."""
        for each in sorted(self._trial.looks):
            if self._told < each <= step:
                self._proposed.report(self._trial.looks[each], each)
        self._told = step


def _best(folder: Path, number: int, step: int | None) -> Path:
    return folder / f"best-{number}-{step}"


def _propose(spec: JobSpec, earlier: Sequence[Trial], *, eval_every: int) -> Any:
    """Return Optuna's next trial. It depends on seed and earlier trials alone: a resumed search proposes what an
    undisturbed one would. The first has the spec's own settings, or the bounds nearest to them.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=spec.seed + len(earlier), n_startup_trials=3),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=eval_every + 1),  # not at a first look
    )
    space = make_search_space(spec)
    floats: dict[str, optuna.distributions.BaseDistribution] = {
        place: optuna.distributions.FloatDistribution(*bounds, log=True) for place, bounds in space.items()
    }
    for each in earlier:
        state = optuna.trial.TrialState.FAIL if each.shortfall is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                params=each.settings,
                distributions=floats,
                intermediate_values=each.looks,
                value=each.shortfall,
                state=state,
            )
        )
    if not earlier:
        study.enqueue_trial(
            {place: min(max(_value_at(spec, place), low), high) for place, (low, high) in space.items()}
        )
    return study.ask(floats)


def _value_at(spec: JobSpec, place: str) -> float:
    """Return the number at a dotted place."""
    value: Any = reduce(getattr, place.split("."), spec)
    return float(value)


def apply_settings(spec: JobSpec, settings: Mapping[str, float]) -> JobSpec:
    """Return the spec with other values at dotted places."""
    content = spec.model_dump()
    for place, value in settings.items():
        *path, last = place.split(".")
        reduce(getitem, path, content)[last] = value
    return JobSpec.model_validate(content)
