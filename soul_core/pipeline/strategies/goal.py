"""How far a model is from holding the job's criteria, on few rows: what trials are compared by."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from soul_core.attacks.snapshot import restored
from soul_core.errors import BadSpec
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.plan import plan_of
from soul_core.evaluation.row_selection import EvaluationSet, choose
from soul_core.evaluation.verdict import judge, named
from soul_core.events import Listener, Phase, Quiet, Wish
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import derive
from soul_core.outputs.dtypes import round_weights
from soul_core.pipeline.model_under_test import Subject
from soul_core.report import CriterionResult, ModelMeasurements
from soul_core.spec import Criterion, Evaluation, JobSpec
from soul_core.spec.search_checks import looked_at, rests_on
from soul_core.spec.strategy import Search


class Goal:
    """The criteria that can be looked at while training."""

    def __init__(self, subject: Subject, spec: JobSpec, *, rows: int, folder: Path, listener: Listener) -> None:
        self._subject, self._spec, self._listener = subject, spec, listener
        self._folder = folder
        self.criteria = looked_at(spec, subject.sets)
        self._sets = _sets(subject, spec, self.criteria, rows)
        self._evaluation = _evaluation(spec, self.criteria, rows)
        self._base = self._measure("base")  # the subject is the base when a strategy begins
        self._of_base = self._judge(self._base)

    def look(self, name: str) -> tuple[float, dict[str, float | None]]:
        """Return (shortfall, criterion -> value) of the model as it would be exported. `name` keeps the look for a
        resumed run.

        Differs from the final measurement: while adapters are beside the weights there is nothing yet to round.
        """
        results = self._judge(self._measure_as_exported(name))
        at_base = [each.value for each in self._of_base]
        return sum(map(shortfall, results, at_base)), {named(each.criterion): each.value for each in results}

    def require_bounds(self) -> None:
        """Raise BadSpec for criteria that no look could ever find held: already the base has no value or no bound."""
        problems = [
            f"criteria: {named(each.criterion)} on the rows of a look: {each.reason}"
            for each in self._of_base
            if each.bound is None
        ]
        if problems:
            raise BadSpec(f"{problems[0]}; a larger strategy.rows may help", details=tuple(problems))

    def _judge(self, model: ModelMeasurements) -> tuple[CriterionResult, ...]:
        return judge(self.criteria, judged=model, base=self._base, resampling=Resampling(0, 0.95, 0))

    def _measure_as_exported(self, name: str) -> ModelMeasurements:
        model, dtypes = self._subject.loaded.model, self._subject.dtypes
        adapted = any(".lora_" in parameter for parameter, _ in model.named_parameters())
        if adapted or not dtypes.rounds or not self.criteria:
            return self._measure(name)
        with restored(model):
            round_weights(model, dtypes)
            return self._measure(name)

    def _measure(self, name: str) -> ModelMeasurements:
        if not self.criteria or not self._sets:
            return ModelMeasurements(sets={})
        phase: Phase = "unlearn" if self._spec.kind == "unlearn" else "finetune"
        measured = measure(
            self._subject.loaded,
            self._sets,
            self._evaluation,
            seed=self._spec.seed,
            micro_batch_tokens=self._spec.training.micro_batch_tokens,
            phase=phase,
            listener=_Silent(self._listener),
            kept=self._folder / name,
        )
        return derive(measured.measurements(), None, self._evaluation, self._spec.seed)


def check_goal(subject: Subject, spec: JobSpec) -> None:
    """Raise BadSpec for criteria of a search that its rows do not allow, before anything is spent."""
    if isinstance(spec.strategy, Search) and (problems := tuple(_problems(subject, spec, spec.strategy.rows))):
        raise BadSpec(problems[0], details=problems if len(problems) > 1 else ())


def _problems(subject: Subject, spec: JobSpec, rows: int) -> Iterator[str]:
    criteria = looked_at(spec, subject.sets)
    sets, evaluation = _sets(subject, spec, criteria, rows), _evaluation(spec, criteria, rows)
    plans = {one.name: plan_of(one, sets, evaluation, frozenset(), subject.loaded) for one in sets}
    for number, criterion in enumerate(spec.criteria):
        for name, metric in rests_on(criterion) if criterion in criteria else ():
            reason = plans[name].reason_against(metric) if name in plans else "no row of it can be made"
            if reason:
                yield f"criteria.{number}: {metric} of the set '{name}' cannot be looked at: {reason}"


def _sets(subject: Subject, spec: JobSpec, criteria: Sequence[Criterion], rows: int) -> tuple[EvaluationSet, ...]:
    """Return the rows that a look measures, some of those that are measured at the end."""
    wanted = {name for criterion in criteria for name, _ in rests_on(criterion)}
    return tuple(
        choose(one.name, one.rows, one.examples, most=rows, seed=spec.seed)
        for one in subject.chosen
        if one.name in wanted
    )


def _evaluation(spec: JobSpec, criteria: Sequence[Criterion], rows: int) -> Evaluation:
    metrics = tuple(dict.fromkeys(each.metric for each in criteria))
    return spec.evaluation.model_copy(
        update={"metrics": metrics, "max_examples": rows, "side_by_side": 0, "bootstrap": 0}
    )


def shortfall(result: CriterionResult, at_base: float | None) -> float:
    """Return how far a criterion is from holding: 0 when it holds; 1 at the base's value, or, where the base held it, a
    whole bound away, and when it cannot be measured; farther out more slowly, up to 2. So a model that forgets by
    losing everything does not come out ahead of one that nearly holds all.
    """
    if result.value is None or result.bound is None:
        return 1.0
    way = 0.0 if at_base is None else _beyond(result, at_base)
    whole = way if way > 0 else abs(result.bound)
    share = max(0.0, _beyond(result, result.value)) / max(whole, 1e-6)
    return share if share <= 1 else 2 - 1 / share


def _beyond(result: CriterionResult, value: float) -> float:
    assert result.bound is not None
    return value - result.bound if result.criterion.at_most is not None else result.bound - value


def met(total: float, criteria: Sequence[Criterion]) -> bool:
    """Say whether every criterion holds, as far as a look can tell."""
    return bool(criteria) and total == 0.0


class _Silent(Quiet):
    """Passes wishes on, and no progress: a look's rows are not the training's steps."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def wish(self) -> Wish:
        return self._listener.wish()
