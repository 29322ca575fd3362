"""What an attack is given of one model, and what it gives back."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from soul_core.catalogue import CATALOGUE, row_metrics
from soul_core.evaluation.evaluate import SetMeasured, measure
from soul_core.evaluation.row_selection import EvaluationSet
from soul_core.events import Listener, stop_if_asked
from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.models.loading import Loaded
from soul_core.report import Finding, MetricValue, Part, SetMetrics
from soul_core.spec import FORGET, Evaluation, JobSpec

#: Taken under every attack that asks the forget questions. Likelihoods give the last two for nothing.
ATTACK_METRICS = ("probability", "rouge_l", "keyword_recall", "exact_memorisation", "extraction_strength")


class NotPossibleError(Exception):
    """The attack cannot be run here; the text becomes the result's `absent_reason`."""


class Attacked(Part):
    """One attack on one model. Sets and metrics as in `AttackResult`, of this model alone."""

    under: dict[str, SetMetrics] = Field({})
    without: dict[str, SetMetrics] = Field({})
    rows: dict[str, tuple[int, ...]] = Field({})
    variants: dict[str, SetMetrics] = Field({})
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    absent_reason: str | None = None


@dataclass(frozen=True)
class Scene:
    """One model under attack. `forget` are the rows that are measured: the same of every model, under every attack."""

    loaded: Loaded
    model: str
    """Its name in the report."""
    sets: Mapping[str, EvaluationSet]
    """The whole data sets."""
    forget: EvaluationSet
    plain: SetMetrics
    """`forget` measured without an attack."""
    spec: JobSpec
    listener: Listener
    folder: Path
    """The attack's own; gone when it has finished."""

    @property
    def resampling(self) -> Resampling:
        return resampling_of(self.spec)

    def measure(self, *sets: EvaluationSet, metrics: Sequence[str] | None = None) -> dict[str, SetMetrics]:
        """Measure sets on the model as it is now."""
        chosen = tuple(metrics or attack_metrics(self.spec))
        found = measure_under(self.loaded, sets, self.spec, chosen, self.listener, self.folder / "measured")
        return {name: one.metrics for name, one in found.items()}

    def under_forget(self, *notes: str) -> Attacked:
        """Measure the forget rows on the model as it is now, beside what they were."""
        return Attacked(
            under=self.measure(self.forget),
            without={FORGET: self.plain},
            rows={FORGET: numbers(self.forget)},
            notes=notes,
        )

    def tick(self, started: float, *, done: int, total: int) -> None:
        """Tell how far a loop is that began at `started` (monotonic seconds), and stop when that is wished."""
        stop_if_asked(self.listener)
        spent = time.monotonic() - started
        self.listener.emit("progress", phase="attack", eta_seconds=spent / max(1, done) * (total - done))

    def need(self, name: str, purpose: str) -> EvaluationSet:
        """Return a whole data set. Raises NotPossibleError naming it when nobody gave it."""
        if name not in self.sets:
            raise NotPossibleError(f"no {name} set was given {purpose}")
        return self.sets[name]


def measure_under(
    loaded: Loaded,
    sets: Sequence[EvaluationSet],
    spec: JobSpec,
    metrics: tuple[str, ...],
    listener: Listener,
    kept: Path,
) -> dict[str, SetMeasured]:
    """Measure sets with an attack's settings: shorter answers, nothing shown side by side."""
    evaluation: Evaluation = spec.evaluation.model_copy(
        update={"metrics": metrics, "max_new_tokens": spec.evaluation.attack_new_tokens, "side_by_side": 0}
    )
    return measure(
        loaded,
        sets,
        evaluation,
        seed=spec.seed,
        micro_batch_tokens=spec.training.micro_batch_tokens,
        phase="attack",
        listener=listener,
        kept=kept,
    ).sets


def attack_metrics(spec: JobSpec) -> tuple[str, ...]:
    """Return the metrics taken under attack: ours, and those of rows that a criterion asks for under one."""
    asked = [criterion.metric for criterion in spec.criteria if criterion.attack is not None]
    return tuple(dict.fromkeys((*ATTACK_METRICS, *row_metrics(asked, FORGET))))


def resampling_of(spec: JobSpec) -> Resampling:
    return Resampling.of(spec.evaluation, spec.seed)


def numbers(one: EvaluationSet) -> tuple[int, ...]:
    """Return the row numbers behind each `per_example`."""
    return tuple(row.number for row in one.rows)


def on_rows(metrics: SetMetrics, places: Sequence[int], resampling: Resampling) -> SetMetrics:
    """Aggregate finished metrics again, over the rows at these places alone."""
    return {name: _on_rows(name, value, places, resampling) for name, value in metrics.items()}


def worst_of(tries: Iterable[Sequence[float | None]], resampling: Resampling) -> MetricValue:
    """Aggregate the largest value of each row over several tries (one sequence of rows each).

    The largest is the worst of every metric of `ATTACK_METRICS`: each says how much came out.
    """
    return summarise(
        [max((v for v in row if v is not None), default=None) for row in zip(*tries, strict=True)], resampling
    )


def _on_rows(name: str, value: MetricValue, places: Sequence[int], resampling: Resampling) -> MetricValue:
    if value.value is None:
        return value
    if value.per_example is None:
        return absent("it has no values of single rows, so none of a part of the rows")
    weights = None if value.weights is None else [value.weights[i] for i in places]
    return summarise(
        [value.per_example[i] for i in places],
        resampling,
        weights=weights,
        aggregate=CATALOGUE[name].aggregate_on(FORGET),
    )
