"""How far a model is from holding the job's criteria, on few rows: what trials are compared by."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from soul_core.attacks.snapshot import preserve_model_state
from soul_core.errors import BadSpec
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.plan import make_plan
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.evaluation.verdict import format_criterion, judge_criteria
from soul_core.events import Listener, Phase, SilentListener, StopRequest
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import add_derived_metrics
from soul_core.outputs.dtypes import round_weights
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.report import CriterionResult, ModelMeasurements
from soul_core.spec import Criterion, Evaluation, JobSpec
from soul_core.spec.strategy import Search, get_metric_inputs, select_search_criteria


class CriteriaCheck:
    """The criteria that can be looked at while training."""

    def __init__(
        self, model_under_test: ModelUnderTest, spec: JobSpec, *, max_rows: int, folder: Path, listener: Listener
    ) -> None:
        self._subject, self._spec, self._listener = model_under_test, spec, listener
        self._folder = folder
        self.criteria = select_search_criteria(spec, model_under_test.datasets)
        self._sets = _sets(model_under_test, spec, self.criteria, max_rows)
        self._evaluation = _evaluation(spec, self.criteria, max_rows)
        self._base = self._measure("base")  # the subject is the base when a strategy begins
        self._of_base = self._judge(self._base)

    def measure_shortfall(self, label: str) -> tuple[float, dict[str, float | None]]:
        """Return (shortfall, criterion -> value) of the model as it would be exported. `name` keeps the look for a
        resumed run.

        Differs from the final measurement: while adapters are beside the weights there is nothing yet to round.
        """
        results = self._judge(self._measure_as_exported(label))
        at_base = [each.value for each in self._of_base]
        return sum(map(compute_shortfall, results, at_base)), {
            format_criterion(each.criterion): each.value for each in results
        }

    def require_bounds(self) -> None:
        """Raise BadSpec for criteria that no look could ever find held: already the base has no value or no bound."""
        problems = [
            f"criteria: {format_criterion(each.criterion)} on the rows of a look: {each.reason}"
            for each in self._of_base
            if each.bound is None
        ]
        if problems:
            raise BadSpec(f"{problems[0]}; a larger strategy.eval_rows may help", details=tuple(problems))

    def _judge(self, model: ModelMeasurements) -> tuple[CriterionResult, ...]:
        return judge_criteria(self.criteria, judged=model, base=self._base, resampling=Resampling(0, 0.95, 0))

    def _measure_as_exported(self, name: str) -> ModelMeasurements:
        model, dtypes = self._subject.loaded.model, self._subject.export_dtypes
        adapted = any(".lora_" in parameter for parameter, _ in model.named_parameters())
        if adapted or not dtypes.needs_rounding or not self.criteria:
            return self._measure(name)
        with preserve_model_state(model):
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
            results_dir=self._folder / name,
        )
        return add_derived_metrics(measured.measurements(), None, self._evaluation, self._spec.seed)


def check_search_criteria(model_under_test: ModelUnderTest, spec: JobSpec) -> None:
    """Raise BadSpec for criteria of a search that its rows do not allow, before anything is spent."""
    if isinstance(spec.strategy, Search) and (
        problems := tuple(_problems(model_under_test, spec, spec.strategy.eval_rows))
    ):
        raise BadSpec(problems[0], details=problems if len(problems) > 1 else ())


def _problems(subject: ModelUnderTest, spec: JobSpec, rows: int) -> Iterator[str]:
    criteria = select_search_criteria(spec, subject.datasets)
    sets, evaluation = _sets(subject, spec, criteria, rows), _evaluation(spec, criteria, rows)
    plans = {one.name: make_plan(one, sets, evaluation, frozenset(), subject.loaded) for one in sets}
    for number, criterion in enumerate(spec.criteria):
        for name, metric in get_metric_inputs(criterion) if criterion in criteria else ():
            reason = plans[name].get_absent_reason(metric) if name in plans else "no row of it can be made"
            if reason:
                yield f"criteria.{number}: {metric} of the set '{name}' cannot be looked at: {reason}"


def _sets(
    subject: ModelUnderTest, spec: JobSpec, criteria: Sequence[Criterion], rows: int
) -> tuple[EvaluationSet, ...]:
    """Return the rows that a look measures, some of those that are measured at the end."""
    wanted = {name for criterion in criteria for name, _ in get_metric_inputs(criterion)}
    return tuple(
        choose_rows(one.name, one.rows, one.examples, max_rows=rows, seed=spec.seed)
        for one in subject.evaluation_sets
        if one.name in wanted
    )


def _evaluation(spec: JobSpec, criteria: Sequence[Criterion], rows: int) -> Evaluation:
    metrics = tuple(dict.fromkeys(each.metric for each in criteria))
    return spec.evaluation.model_copy(
        update={"metrics": metrics, "max_examples": rows, "num_answer_samples": 0, "bootstrap": 0}
    )


def compute_shortfall(result: CriterionResult, base_value: float | None) -> float:
    """Return how far a criterion is from holding: 0 when it holds; 1 at the base's value, or, where the base held it, a
    whole bound away, and when it cannot be measured; farther out more slowly, up to 2. So a model that forgets by
    losing everything does not come out ahead of one that nearly holds all.
    """
    if result.value is None or result.bound is None:
        return 1.0
    way = 0.0 if base_value is None else _beyond(result, base_value)
    whole = way if way > 0 else abs(result.bound)
    share = max(0.0, _beyond(result, result.value)) / max(whole, 1e-6)
    return share if share <= 1 else 2 - 1 / share


def _beyond(result: CriterionResult, value: float) -> float:
    assert result.bound is not None
    return value - result.bound if result.criterion.at_most is not None else result.bound - value


def is_met(total_shortfall: float, criteria: Sequence[Criterion]) -> bool:
    """Say whether every criterion holds, as far as a look can tell."""
    return bool(criteria) and total_shortfall == 0.0


class _Silent(SilentListener):
    """Passes wishes on, and no progress: a look's rows are not the training's steps."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def stop_request(self) -> StopRequest:
        return self._listener.stop_request()
