"""How far a model is from meeting the job's criteria, on few rows: by this trials are compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from soul_core.attacks.snapshot import preserve_model_state
from soul_core.errors import BadSpec
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.plan import make_plan
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.evaluation.verdict import format_criterion, judge_criteria
from soul_core.events import Listener, SilentListener, StopRequest
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.derived import add_derived_metrics
from soul_core.outputs.dtypes import round_weights
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.report import CriterionResult, ModelMeasurements
from soul_core.spec import Criterion, Evaluation, JobSpec
from soul_core.spec.strategy import Search, get_metric_inputs, select_search_criteria

_NO_INTERVALS = Resampling(num_resamples=0, confidence=0.95, seed=0)


class CriteriaCheck:
    """Measures a model on few rows and compares it with the criteria that can be measured during training.

    The model must be the base model when the check is made.
    """

    def __init__(
        self, model_under_test: ModelUnderTest, spec: JobSpec, *, max_rows: int, folder: Path, listener: Listener
    ) -> None:
        self._model, self._spec, self._listener = model_under_test, spec, listener
        self._folder = folder
        self.criteria = select_search_criteria(spec, model_under_test.datasets)
        self._sets = _select_sets(model_under_test, spec, self.criteria, max_rows)
        self._evaluation = _make_evaluation(spec, self.criteria, max_rows)
        self._base = self._measure("base")
        self._base_results = self._judge(self._base)

    def measure_shortfall(self, label: str) -> tuple[float, dict[str, float | None]]:
        """Return (shortfall, criterion -> value) of the model as it would be exported.

        Differs from the final measurement: weights that adapters are attached to are not rounded.

        Args:
            label: Name under which the measurements are saved for a resumed run.
        """
        results = self._judge(self._measure_as_exported(label))
        base_values = [result.value for result in self._base_results]
        return sum(map(compute_shortfall, results, base_values)), {
            format_criterion(result.criterion): result.value for result in results
        }

    def is_met(self, shortfall: float) -> bool:
        """Return whether every criterion is met, as far as few rows show."""
        return bool(self.criteria) and shortfall == 0.0

    def require_bounds(self) -> None:
        """Raise BadSpec for criteria that no trial could meet: the base model has no value, and so no bound."""
        problems = [
            f"criteria: {format_criterion(result.criterion)} on the rows of a criteria check: {result.reason}"
            for result in self._base_results
            if result.bound is None
        ]
        if problems:
            raise BadSpec(f"{problems[0]}; a larger strategy.eval_rows may help", details=tuple(problems))

    def _judge(self, measurements: ModelMeasurements) -> tuple[CriterionResult, ...]:
        return judge_criteria(self.criteria, judged=measurements, base=self._base, resampling=_NO_INTERVALS)

    def _measure_as_exported(self, label: str) -> ModelMeasurements:
        model, dtypes = self._model.loaded.model, self._model.export_dtypes
        has_adapters = any(".lora_" in parameter for parameter, _ in model.named_parameters())
        if has_adapters or not dtypes.needs_rounding or not self.criteria:
            return self._measure(label)
        with preserve_model_state(model):
            round_weights(model, dtypes)
            return self._measure(label)

    def _measure(self, label: str) -> ModelMeasurements:
        if not self.criteria or not self._sets:
            return ModelMeasurements(sets={})
        evaluation = measure(
            self._model.loaded,
            self._sets,
            self._evaluation,
            seed=self._spec.seed,
            micro_batch_tokens=self._spec.training.micro_batch_tokens,
            phase=self._spec.training_phase,
            listener=_StopRequestsOnly(self._listener),
            results_dir=self._folder / label,
        )
        return add_derived_metrics(evaluation.measurements, None, self._evaluation, self._spec.seed)


def compute_shortfall(result: CriterionResult, base_value: float | None) -> float:
    """Return how far a criterion is from being met, from 0 to 2.

    0 if it is met; 1 at the base model's value (or, if the base model meets it, at a distance of the bound itself from
    the bound), and if it has no value; beyond that ever more slowly, up to 2. So a model that forgets by losing
    everything is not better than one that nearly meets all criteria.
    """
    if result.value is None or result.bound is None:
        return 1.0
    base_excess = 0.0 if base_value is None else _compute_excess(result, base_value)
    unit = base_excess if base_excess > 0 else abs(result.bound)
    ratio = max(0.0, _compute_excess(result, result.value)) / max(unit, 1e-6)
    return ratio if ratio <= 1 else 2 - 1 / ratio


def _compute_excess(result: CriterionResult, value: float) -> float:
    """Return the distance of a value from the bound, positive on the wrong side."""
    assert result.bound is not None
    return value - result.bound if result.criterion.at_most is not None else result.bound - value


def check_search_criteria(model_under_test: ModelUnderTest, spec: JobSpec) -> None:
    """Raise BadSpec for criteria of a search that its rows cannot be measured by."""
    if not isinstance(spec.strategy, Search):
        return
    if problems := tuple(_find_problems(model_under_test, spec, spec.strategy.eval_rows)):
        raise BadSpec(problems[0], details=problems if len(problems) > 1 else ())


def _find_problems(model_under_test: ModelUnderTest, spec: JobSpec, max_rows: int) -> Iterator[str]:
    criteria = select_search_criteria(spec, model_under_test.datasets)
    sets = _select_sets(model_under_test, spec, criteria, max_rows)
    evaluation = _make_evaluation(spec, criteria, max_rows)
    plans = {
        selection.name: make_plan(selection, sets, evaluation, frozenset(), model_under_test.loaded, seed=spec.seed)
        for selection in sets
    }
    for number, criterion in enumerate(spec.criteria):
        for name, metric in get_metric_inputs(criterion) if criterion in criteria else ():
            reason = plans[name].get_absent_reason(metric) if name in plans else "no row of it can be made"
            if reason:
                yield f"criteria.{number}: {metric} of the set '{name}' cannot be measured while searching: {reason}"


def _select_sets(
    model_under_test: ModelUnderTest, spec: JobSpec, criteria: Sequence[Criterion], max_rows: int
) -> tuple[EvaluationSet, ...]:
    """Return some of the rows that are measured at the end."""
    names = {name for criterion in criteria for name, _ in get_metric_inputs(criterion)}
    return tuple(
        choose_rows(
            evaluation_set.name, evaluation_set.rows, evaluation_set.examples, max_rows=max_rows, seed=spec.seed
        )
        for evaluation_set in model_under_test.evaluation_sets
        if evaluation_set.name in names
    )


def _make_evaluation(spec: JobSpec, criteria: Sequence[Criterion], max_rows: int) -> Evaluation:
    metrics = tuple(dict.fromkeys(criterion.metric for criterion in criteria))
    return spec.evaluation.model_copy(
        update={"metrics": metrics, "max_examples": max_rows, "num_answer_samples": 0, "bootstrap": 0}
    )


class _StopRequestsOnly(SilentListener):
    """Returns the run's stop requests and drops events: rows of a criteria check are not steps of the training."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def stop_request(self) -> StopRequest:
        return self._listener.stop_request()
