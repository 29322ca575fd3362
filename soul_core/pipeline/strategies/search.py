"""Search: few trials from the base model, each with other settings, until one meets every criterion.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) proposes settings after the spec's own, which are the
first trial; a trial that is worse than the median of the earlier ones at the same step is pruned (Optuna's
MedianPruner). The weights of the best criteria check are saved before the check is recorded as the best.
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
from soul_core.pipeline.strategies.criteria_check import CriteriaCheck
from soul_core.pipeline.strategies.single import StrategyResult, train_model
from soul_core.pipeline.strategies.trials import Trial, TrialLog
from soul_core.pipeline.strategies.weights import BaseWeights, load_trainable, save_trainable
from soul_core.report import TrialOutcome
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Search, make_search_space
from soul_core.training.history import TrainingResult
from soul_core.training.trainable import TrainableParameters


def run_search(model_under_test: ModelUnderTest, spec: JobSpec, state: RunState) -> StrategyResult:
    """Leave in the model the weights of the first check that met all criteria, else of the one with least shortfall."""
    strategy = spec.strategy
    assert isinstance(strategy, Search)
    search = _Search(model_under_test, spec, strategy, state)
    while not search.is_finished():
        search.run_next_trial()
    return search.load_best()


class _Search:
    """The trials so far, and how the next one runs."""

    def __init__(self, model_under_test: ModelUnderTest, spec: JobSpec, strategy: Search, state: RunState) -> None:
        self._model, self._spec, self._strategy, self._state = model_under_test, spec, strategy, state
        self._folder = state.folder / "search"
        self._base = BaseWeights(model_under_test.loaded)
        self._check = CriteriaCheck(
            model_under_test, spec, max_rows=strategy.eval_rows, folder=self._folder / "checks", listener=state
        )
        self._check.require_bounds()
        if skipped := [
            format_criterion(criterion)
            for criterion in spec.expand_criteria(model_under_test.datasets)
            if criterion not in self._check.criteria
        ]:
            state.emit("log", message=f"not measured while searching, decided by the verdict: {', '.join(skipped)}")
        self._trials = TrialLog(self._folder / "trials.json")

    def is_finished(self) -> bool:
        """Return whether a trial met all criteria, or no trial or time is left."""
        if not self._trials or self._trials[-1].outcome is None:
            return False
        seconds, max_seconds = sum(trial.seconds for trial in self._trials), self._strategy.max_seconds
        return (
            self._trials[-1].outcome == "met"
            or len(self._trials) >= self._strategy.trials
            or (max_seconds is not None and seconds >= max_seconds)
        )

    def run_next_trial(self) -> None:
        """Train one trial from the base model, or resume the interrupted one, and record its outcome."""
        resumes = bool(self._trials) and self._trials[-1].outcome is None
        number = len(self._trials) - resumes
        proposal = _propose(self._spec, self._trials[:number], eval_every=self._strategy.eval_every)
        if not resumes:
            self._trials.add(Trial(proposal.params))
        trial = self._trials[number]
        settings = ", ".join(f"{place} {value:.3g}" for place, value in trial.settings.items())
        self._state.emit("log", message=f"trial {number + 1}: {settings}")
        spec = apply_settings(self._spec, trial.settings)
        # the criteria end a trial
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"stop_at": None})})
        self._base.restore()
        monitor = _TrialMonitor(
            self._check,
            self._trials,
            proposal,
            folder=self._folder,
            eval_every=self._strategy.eval_every,
        )
        folder = self._folder / f"{number}"
        try:
            trial.training_result = train_model(self._model, spec, folder, self._state, should_stop=monitor)
            trial.outcome = monitor.outcome
        except TrainingDivergedError as error:
            trial.training_result, trial.outcome = error.training_result or TrainingResult(), "diverged"
            self._state.emit("warning", message=f"trial {number + 1} diverged: {error.message}")
        finally:
            monitor.save()  # the seconds of an interrupted trial count too
        shutil.rmtree(folder, ignore_errors=True)  # its checkpoints

    def load_best(self) -> StrategyResult:
        """Load the weights of the best check into the model. Raises TrainingDivergedError if there was no check."""
        chosen = self._trials.nearest_index
        if chosen is None:
            raise TrainingDivergedError(
                "every trial diverged before its first criteria check; lower optimizer.lr, or the bounds strategy.lr"
            )
        path = _make_best_path(self._folder, chosen, self._trials[chosen].kept_step)
        training_result = self._trials.summarize_training(chosen)
        training_result.adapter = load_trainable(self._model.loaded, path)
        return StrategyResult(training_result, self._trials.make_results(chosen))


class _TrialMonitor:
    """Checks the criteria of the newest trial every few steps, saves the best weights, decides when the trial stops."""

    def __init__(
        self,
        check: CriteriaCheck,
        trials: TrialLog,
        proposal: Any,
        *,
        folder: Path,
        eval_every: int,
    ) -> None:
        self._check, self._trials, self._proposal, self._folder = check, trials, proposal, folder
        self._eval_every = eval_every
        self._trial = trials[-1]
        self._started_at = time.monotonic() - self._trial.seconds
        self._reported_step = 0
        self.outcome: TrialOutcome = "finished"

    def __call__(self, step: int, trainable: TrainableParameters, is_last: bool) -> bool:
        """Check the criteria if this step is due; return whether the trial stops."""
        if step % self._eval_every and not is_last:
            return False
        if step not in self._trial.shortfalls:  # a resumed training repeats steps
            self._add_check(step, trainable)
        self._report_to_optuna(step)
        if self._check.is_met(self._trial.shortfalls[step]):
            self.outcome = "met"
        elif not is_last and self._proposal.should_prune():
            self.outcome = "pruned"
        return self.outcome != "finished"

    def save(self) -> None:
        """Save the trial with its seconds so far."""
        self._trial.seconds = time.monotonic() - self._started_at
        self._trials.save()

    def _add_check(self, step: int, trainable: TrainableParameters) -> None:
        """Check the criteria and record the result; weights that are the best are saved before they are recorded."""
        number = len(self._trials) - 1
        shortfall, values = self._check.measure_shortfall(f"{number}-{step}")
        if None in values.values():  # the base model had them all, so these weights produce no numbers
            shortfall = math.inf
        best = _make_best_path(self._folder, number, step) if self._trials.is_nearest(shortfall) else None
        if best:
            save_trainable(trainable, best)
        self._trial.add_check(step, shortfall, values)
        self.save()
        for path in self._folder.glob("best-*") if best else ():
            if path != best:
                shutil.rmtree(path)

    def _report_to_optuna(self, last_step: int) -> None:
        """Report the checks up to this step, those before an interruption included."""
        for step, shortfall in sorted(self._trial.shortfalls.items()):
            if self._reported_step < step <= last_step:
                self._proposal.report(shortfall, step)
        self._reported_step = last_step


def _make_best_path(folder: Path, number: int, step: int | None) -> Path:
    return folder / f"best-{number}-{step}"


def _propose(spec: JobSpec, earlier: Sequence[Trial], *, eval_every: int) -> Any:
    """Return Optuna's next trial. The first has the spec's own settings, or the bounds nearest to them.

    It depends only on the seed and the earlier trials, so a resumed search proposes what an uninterrupted one would.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=spec.seed + len(earlier), n_startup_trials=3),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=eval_every + 1),  # not at the first check
    )
    space = make_search_space(spec)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        place: optuna.distributions.FloatDistribution(*bounds, log=True) for place, bounds in space.items()
    }
    for trial in earlier:
        state = optuna.trial.TrialState.FAIL if trial.shortfall is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.settings,
                distributions=distributions,
                intermediate_values=trial.shortfalls,
                value=trial.shortfall,
                state=state,
            )
        )
    if not earlier:
        values: dict[str, Any] = {place: reduce(getattr, place.split("."), spec) for place in space}
        study.enqueue_trial({place: _choose_first(values[place], *bounds) for place, bounds in space.items()})
    return study.ask(distributions)


def _choose_first(value: float | str, low: float, high: float) -> float:
    """Return the spec's own value within the bounds; their geometric mean if the spec has "auto"."""
    return math.sqrt(low * high) if isinstance(value, str) else min(max(value, low), high)


def apply_settings(spec: JobSpec, settings: Mapping[str, float]) -> JobSpec:
    """Return the spec with other values at dotted places."""
    content = spec.model_dump()
    for place, value in settings.items():
        *path, last = place.split(".")
        reduce(getitem, path, content)[last] = value
    return JobSpec.model_validate(content)
