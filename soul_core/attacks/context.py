"""The inputs of an attack on one model, and what attacks share: measuring, aggregating, reporting progress."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soul_core.catalogue import METRIC_CATALOG, select_row_metrics
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.models.loading import LoadedModel
from soul_core.report import MetricValue, SetMetrics
from soul_core.spec import FORGET, Evaluation, JobSpec

#: Measured under every attack that asks the forget questions. The last two need no pass of their own.
ATTACK_METRICS = ("probability", "rouge_l", "keyword_recall", "exact_memorization", "extraction_strength")
#: Measured under `prompting` too, where the spec names them: what samples reveal.
SAMPLED_METRICS = ("leak_at_k", "leak_rouge_l_at_k")


class AttackNotPossible(Exception):
    """The attack cannot run on this model; the text becomes the result's `absent_reason`."""


@dataclass(frozen=True)
class AttackContext:
    """The inputs of an attack on one model."""

    loaded: LoadedModel
    model_name: str
    """The model's name in the report."""
    full_sets: Mapping[str, EvaluationSet]
    """Name -> all rows of the data set."""
    forget_selection: EvaluationSet
    """The forget rows that are measured: the same for every model and every attack."""
    baseline_metrics: SetMetrics
    """The metrics of `forget_selection` without an attack."""
    spec: JobSpec
    listener: Listener
    folder: Path
    """The attack's own folder; removed when the attack has finished."""

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling.of(self.spec.evaluation, self.spec.seed)

    def measure(self, *sets: EvaluationSet, metrics: Sequence[str] | None = None) -> dict[str, SetMetrics]:
        """Measure sets on the model as it is now."""
        names = tuple(metrics or get_attack_metrics(self.spec))
        return measure_for_attack(self.loaded, sets, self.spec, names, self.listener, self.folder / "measured")

    def measure_forget_rows(self, *notes: str) -> AttackOutcome:
        """Measure the forget rows on the model as it is now, and return them with their values without the attack."""
        return AttackOutcome(
            attacked=self.measure(self.forget_selection),
            baseline={FORGET: self.baseline_metrics},
            rows={FORGET: get_row_numbers(self.forget_selection)},
            notes=notes,
        )

    def report_progress(self, started_at: float, *, num_done: int, num_total: int) -> None:
        """Emit the progress of a loop and check for a stop request.

        Args:
            started_at: When the loop began, in seconds of `time.monotonic()`.
        """
        raise_if_stop_requested(self.listener)
        seconds = time.monotonic() - started_at
        self.listener.emit("progress", phase="attack", eta_seconds=seconds / max(1, num_done) * (num_total - num_done))

    def require_set(self, name: str, purpose: str) -> EvaluationSet:
        """Return all rows of a data set. Raises AttackNotPossible, naming the set, if it was not given."""
        if name not in self.full_sets:
            raise AttackNotPossible(f"no {name} set was given {purpose}")
        return self.full_sets[name]


def measure_for_attack(
    loaded: LoadedModel,
    sets: Sequence[EvaluationSet],
    spec: JobSpec,
    metrics: tuple[str, ...],
    listener: Listener,
    results_dir: Path,
) -> dict[str, SetMetrics]:
    """Measure sets with an attack's settings: shorter answers, no answer samples."""
    evaluation: Evaluation = spec.evaluation.model_copy(
        update={"metrics": metrics, "max_new_tokens": spec.evaluation.attack_new_tokens, "num_answer_samples": 0}
    )
    measurements = measure(
        loaded,
        sets,
        evaluation,
        seed=spec.seed,
        micro_batch_tokens=spec.training.micro_batch_tokens,
        phase="attack",
        listener=listener,
        results_dir=results_dir,
    ).measurements
    return {evaluation_set.name: measurements.sets[evaluation_set.name] for evaluation_set in sets}


def get_attack_metrics(spec: JobSpec) -> tuple[str, ...]:
    """Return the metrics measured under attack: `ATTACK_METRICS`, and those that a criterion names for an attack."""
    named = [criterion.metric for criterion in spec.criteria if criterion.attack is not None]
    return tuple(dict.fromkeys((*ATTACK_METRICS, *select_row_metrics(named, FORGET))))


def get_row_numbers(evaluation_set: EvaluationSet) -> tuple[int, ...]:
    """Return the row numbers of a set, in the order of its values."""
    return tuple(row.number for row in evaluation_set.rows)


def compute_worst_case(values_by_try: Iterable[Sequence[float | None]], resampling: Resampling) -> MetricValue:
    """Aggregate the largest value of each row over several tries (one sequence of rows per try).

    The largest is the worst for every metric of `ATTACK_METRICS`: each measures how much the model reveals.
    """
    return summarize(
        [max((v for v in row if v is not None), default=None) for row in zip(*values_by_try, strict=True)], resampling
    )


def aggregate_on_rows(metrics: SetMetrics, row_indices: Sequence[int], resampling: Resampling) -> SetMetrics:
    """Aggregate measured metrics again, over some of the rows."""
    return {name: _aggregate_value(name, value, row_indices, resampling) for name, value in metrics.items()}


def _aggregate_value(name: str, value: MetricValue, row_indices: Sequence[int], resampling: Resampling) -> MetricValue:
    if value.value is None:
        return value
    if value.per_example is None:
        return make_absent_value("it has no values of single rows, so it cannot be computed on some of the rows")
    return summarize(
        [value.per_example[i] for i in row_indices],
        resampling,
        weights=None if value.weights is None else [value.weights[i] for i in row_indices],
        aggregate=METRIC_CATALOG[name].get_aggregate(FORGET),
    )
