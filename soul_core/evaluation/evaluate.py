"""Measure one model on the data sets: one packed forward for all likelihoods of a set, answers in batches.

`run()` and the attacks call `measure`; `soul_core.metrics.derived` then adds what is made of its numbers. Each
finished set is kept as JSON, so a run that was interrupted does not measure it again.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from soul_core.atomic_io import write_atomically
from soul_core.catalogue import METRIC_CATALOG
from soul_core.evaluation.inference import run_inference
from soul_core.evaluation.plan import EvaluationPlan, make_plan
from soul_core.evaluation.row_selection import Answers, EvaluationSet, choose_sample_rows
from soul_core.events import Listener, Phase, raise_if_stop_requested
from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling, make_absent_value
from soul_core.metrics.observed import InferenceResult
from soul_core.models.loading import LoadedModel
from soul_core.report import MetricValue, ModelMeasurements, ReportModel
from soul_core.spec import GENERAL, Evaluation

#: A progress event at most this often.
_EVENT_SECONDS = 0.5


class SetMeasured(ReportModel):
    """All that is kept of one model on one set. By row number: the model's own answer, and what it wrote before it
    where it wrote anything.
    """

    rows: tuple[int, ...]
    metrics: dict[str, MetricValue]
    answers: dict[int, str]
    preambles: dict[int, str]


class Measured(ReportModel):
    """All that is kept of one model."""

    sets: dict[str, SetMeasured]
    gaps: dict[str, dict[str, MetricValue]]

    def measurements(self) -> ModelMeasurements:
        """Return the part that goes into the report."""
        values = {name: one.metrics for name, one in self.sets.items()}
        return ModelMeasurements(sets=values | self.gaps, rows={name: one.rows for name, one in self.sets.items()})

    def answers(self) -> Answers:
        """Return the model's own answers."""
        return {name: one.answers for name, one in self.sets.items()}

    def preambles(self) -> Answers:
        """Return what the model wrote before its answers, where it wrote anything."""
        return {name: one.preambles for name, one in self.sets.items()}


def measure(
    loaded: LoadedModel,
    sets: Sequence[EvaluationSet],
    evaluation: Evaluation,
    *,
    seed: int,
    micro_batch_tokens: int,
    phase: Phase,
    listener: Listener,
    results_dir: Path,
) -> Measured:
    """Measure every row metric of `evaluation`, and those its other metrics are made of, on every set.

    A set whose result lies in `kept` is read from there. Raises BadData for other answers that cannot be used.
    """
    resampling = Resampling.of(evaluation, seed)
    shown = choose_sample_rows(sets, evaluation.num_answer_samples)
    results = {one.name: found for one in sets if (found := _read(results_dir / f"{one.name}.json"))}
    plans = [make_plan(one, sets, evaluation, shown[one.name], loaded) for one in sets if one.name not in results]
    progress = _Progress(listener, phase, [plan.estimate_work(evaluation.max_new_tokens) for plan in plans])
    results_dir.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        observed = run_inference(
            loaded,
            plan,
            max_new_tokens=evaluation.max_new_tokens,
            micro_batch_tokens=micro_batch_tokens,
            on_progress=progress.tick,
        )
        results[plan.evaluation_set.name] = SetMeasured(
            rows=observed.rows,
            metrics={name: _value(name, plan, observed, resampling) for name in plan.metrics},
            answers={answer.row: answer.generated for answer in observed.answers if answer},
            preambles={answer.row: answer.preamble for answer in observed.answers if answer and answer.preamble},
        )
        write_atomically(
            results_dir / f"{plan.evaluation_set.name}.json", results[plan.evaluation_set.name].model_dump_json()
        )
    return Measured(sets={one.name: results[one.name] for one in sets}, gaps=_gaps(sets, evaluation))


def _value(metric: str, plan: EvaluationPlan, observed: InferenceResult, resampling: Resampling) -> MetricValue:
    reason = plan.get_absent_reason(metric)
    return make_absent_value(reason) if reason else METRICS[metric](observed, resampling)


def _gaps(sets: Sequence[EvaluationSet], evaluation: Evaluation) -> dict[str, dict[str, MetricValue]]:
    """Say that metrics of plain text could not be taken where nobody gave any."""
    if any(one.name == GENERAL for one in sets):
        return {}
    texts = [name for name in evaluation.metrics if "text" in METRIC_CATALOG[name].needs]
    return {GENERAL: dict.fromkeys(texts, make_absent_value(f"no {GENERAL} set was given"))} if texts else {}


def _read(path: Path) -> SetMeasured | None:
    return SetMeasured.model_validate_json(path.read_text()) if path.exists() else None


class _Progress:
    """Counts rows through all passes, estimates the time left by tokens, and asks whether to stop."""

    def __init__(self, listener: Listener, phase: Phase, passes: Sequence[tuple[int, float]]) -> None:
        self._listener, self._phase = listener, phase
        self._rows, self._work = sum(rows for rows, _ in passes), sum(work for _, work in passes)
        self._done_rows, self._done_work = 0, 0.0
        self._started = self._told = time.monotonic()

    def tick(self, num_rows: int, work: float) -> None:
        """Count rows done. Raises Interrupted or Cancelled when asked to."""
        raise_if_stop_requested(self._listener)
        self._done_rows += num_rows
        self._done_work += work
        now = time.monotonic()
        if num_rows and (now - self._told >= _EVENT_SECONDS or self._done_rows == self._rows):
            self._told = now
            left = max(0.0, self._work - self._done_work) / self._done_work * (now - self._started)
            self._listener.emit(
                "progress",
                phase=self._phase,
                done=self._done_rows,
                total=self._rows,
                unit="rows",
                eta_seconds=round(left, 1),
            )
