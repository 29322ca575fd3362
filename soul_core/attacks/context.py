"""What an attack is given of one model, and what it gives back."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from soul_core.catalogue import METRIC_CATALOG, select_row_metrics
from soul_core.evaluation.evaluate import SetMeasured, measure
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.models.loading import LoadedModel
from soul_core.report import Finding, MetricValue, ReportModel, SetMetrics
from soul_core.spec import FORGET, Evaluation, JobSpec

#: Taken under every attack that asks the forget questions. Likelihoods give the last two for nothing.
ATTACK_METRICS = ("probability", "rouge_l", "keyword_recall", "exact_memorization", "extraction_strength")


class AttackNotPossible(Exception):
    """The attack cannot be run here; the text becomes the result's `absent_reason`."""


class AttackOutcome(ReportModel):
    """One attack on one model. Sets and metrics as in `AttackResult`, of this model alone."""

    attacked: dict[str, SetMetrics] = Field({})
    baseline: dict[str, SetMetrics] = Field({})
    rows: dict[str, tuple[int, ...]] = Field({})
    variants: dict[str, SetMetrics] = Field({})
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    absent_reason: str | None = None


@dataclass(frozen=True)
class AttackContext:
    """One model under attack. `forget` are the rows that are measured: the same of every model, under every attack."""

    loaded: LoadedModel
    model_name: str
    """Its name in the report."""
    full_sets: Mapping[str, EvaluationSet]
    """The whole data sets."""
    forget_selection: EvaluationSet
    baseline_metrics: SetMetrics
    """`forget` measured without an attack."""
    spec: JobSpec
    listener: Listener
    folder: Path
    """The attack's own; gone when it has finished."""

    @property
    def resampling(self) -> Resampling:
        return make_resampling(self.spec)

    def measure(self, *sets: EvaluationSet, metrics: Sequence[str] | None = None) -> dict[str, SetMetrics]:
        """Measure sets on the model as it is now."""
        chosen = tuple(metrics or get_attack_metrics(self.spec))
        found = measure_for_attack(self.loaded, sets, self.spec, chosen, self.listener, self.folder / "measured")
        return {name: one.metrics for name, one in found.items()}

    def measure_forget_rows(self, *notes: str) -> AttackOutcome:
        """Measure the forget rows on the model as it is now, beside what they were."""
        return AttackOutcome(
            attacked=self.measure(self.forget_selection),
            baseline={FORGET: self.baseline_metrics},
            rows={FORGET: get_row_numbers(self.forget_selection)},
            notes=notes,
        )

    def report_progress(self, started_at: float, *, num_done: int, num_total: int) -> None:
        """Tell how far a loop is that began at `started` (monotonic seconds), and stop when that is wished."""
        raise_if_stop_requested(self.listener)
        spent = time.monotonic() - started_at
        self.listener.emit("progress", phase="attack", eta_seconds=spent / max(1, num_done) * (num_total - num_done))

    def require_set(self, name: str, purpose: str) -> EvaluationSet:
        """Return a whole data set. Raises NotPossibleError naming it when nobody gave it."""
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
) -> dict[str, SetMeasured]:
    """Measure sets with an attack's settings: shorter answers, nothing shown side by side."""
    evaluation: Evaluation = spec.evaluation.model_copy(
        update={"metrics": metrics, "max_new_tokens": spec.evaluation.attack_new_tokens, "num_answer_samples": 0}
    )
    return measure(
        loaded,
        sets,
        evaluation,
        seed=spec.seed,
        micro_batch_tokens=spec.training.micro_batch_tokens,
        phase="attack",
        listener=listener,
        results_dir=results_dir,
    ).sets


def get_attack_metrics(spec: JobSpec) -> tuple[str, ...]:
    """Return the metrics taken under attack: ours, and those of rows that a criterion asks for under one."""
    asked = [criterion.metric for criterion in spec.criteria if criterion.attack is not None]
    return tuple(dict.fromkeys((*ATTACK_METRICS, *select_row_metrics(asked, FORGET))))


def make_resampling(spec: JobSpec) -> Resampling:
    return Resampling.of(spec.evaluation, spec.seed)


def get_row_numbers(evaluation_set: EvaluationSet) -> tuple[int, ...]:
    """Return the row numbers behind each `per_example`."""
    return tuple(row.number for row in evaluation_set.rows)


def aggregate_on_rows(metrics: SetMetrics, row_indices: Sequence[int], resampling: Resampling) -> SetMetrics:
    """Aggregate finished metrics again, over the rows at these places alone."""
    return {name: _on_rows(name, value, row_indices, resampling) for name, value in metrics.items()}


def compute_worst_case(values_by_try: Iterable[Sequence[float | None]], resampling: Resampling) -> MetricValue:
    """Aggregate the largest value of each row over several tries (one sequence of rows each).

    The largest is the worst of every metric of `ATTACK_METRICS`: each says how much came out.
    """
    return summarize(
        [max((v for v in row if v is not None), default=None) for row in zip(*values_by_try, strict=True)], resampling
    )


def _on_rows(name: str, value: MetricValue, places: Sequence[int], resampling: Resampling) -> MetricValue:
    if value.value is None:
        return value
    if value.per_example is None:
        return make_absent_value("it has no values of single rows, so none of a part of the rows")
    weights = None if value.weights is None else [value.weights[i] for i in places]
    return summarize(
        [value.per_example[i] for i in places],
        resampling,
        weights=weights,
        aggregate=METRIC_CATALOG[name].get_aggregate(FORGET),
    )
