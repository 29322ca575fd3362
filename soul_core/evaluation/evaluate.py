"""Measures one model on data sets: one packed forward pass for all likelihoods of a set, answers in batches.

`run()` and the attacks call `measure`; `soul_core.metrics.derived` then adds the derived metrics. The result of each
set is saved as JSON, so that a resumed run does not measure it again.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from soul_core.atomic_io import write_atomically
from soul_core.catalogue import METRIC_CATALOG
from soul_core.evaluation.inference import run_inference
from soul_core.evaluation.model_evaluation import ModelEvaluation, join_sets
from soul_core.evaluation.plan import EvaluationPlan, make_plan
from soul_core.evaluation.row_selection import EvaluationSet, choose_sample_rows
from soul_core.events import Listener, Phase, raise_if_stop_requested
from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling, make_absent_value
from soul_core.metrics.leaks import find_leaking_texts, summarize_leaks
from soul_core.metrics.observed import InferenceResult
from soul_core.models.loading import LoadedModel
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import GENERAL, Evaluation

#: Seconds between two progress events, at least.
_EVENT_SECONDS = 0.5


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
) -> ModelEvaluation:
    """Measure every row metric that `evaluation` names, or that its derived metrics need, on every set.

    A set whose result is in `results_dir` is read from there. Raises BadData for paraphrased or wrong answers that
    cannot be used.
    """
    resampling = Resampling.of(evaluation, seed)
    sample_rows = choose_sample_rows(sets, evaluation.num_answer_samples)
    paths = {evaluation_set.name: results_dir / f"{evaluation_set.name}.json" for evaluation_set in sets}
    results = {
        name: ModelEvaluation.model_validate_json(path.read_bytes()) for name, path in paths.items() if path.exists()
    }
    plans = [
        make_plan(evaluation_set, sets, evaluation, sample_rows[evaluation_set.name], loaded, seed=seed)
        for evaluation_set in sets
        if evaluation_set.name not in results
    ]
    progress = _Progress(listener, phase, [plan.estimate_work(evaluation.max_new_tokens) for plan in plans])
    results_dir.mkdir(parents=True, exist_ok=True)
    for plan in plans:
        inference = run_inference(
            loaded,
            plan,
            max_new_tokens=evaluation.max_new_tokens,
            micro_batch_tokens=micro_batch_tokens,
            on_progress=progress.tick,
        )
        name = plan.evaluation_set.name
        inference = replace(inference, refusals=evaluation.refusals)
        results[name] = _compute_metrics(plan, inference, resampling, shown_rows=sample_rows[name])
        write_atomically(paths[name], results[name].model_dump_json())
    return join_sets([*(results[name] for name in paths), _make_absent_sets(sets, evaluation)])


def _compute_metrics(
    plan: EvaluationPlan, inference: InferenceResult, resampling: Resampling, *, shown_rows: Collection[int]
) -> ModelEvaluation:
    def compute(metric: str) -> MetricValue:
        reason = plan.get_absent_reason(metric)
        return make_absent_value(reason) if reason else METRICS[metric](inference, resampling)

    name = plan.evaluation_set.name
    answers = [answer for answer in inference.answers if answer is not None]
    leaks = summarize_leaks(inference)
    leaking = {row: text for row, text in find_leaking_texts(inference).items() if row in shown_rows}
    return ModelEvaluation(
        measurements=ModelMeasurements(
            sets={name: {metric: compute(metric) for metric in plan.metrics}},
            rows={name: inference.rows},
            leaks={name: leaks} if leaks else {},
        ),
        leaking_samples={name: leaking},
        answers={name: {answer.row: answer.generated for answer in answers}},
        preambles={name: {answer.row: answer.preamble for answer in answers if answer.preamble}},
    )


def _make_absent_sets(sets: Sequence[EvaluationSet], evaluation: Evaluation) -> ModelEvaluation:
    """Return the metrics of plain text as absent if no general set was given."""
    metrics = [name for name in evaluation.metrics if "text" in METRIC_CATALOG[name].needs]
    if not metrics or any(evaluation_set.name == GENERAL for evaluation_set in sets):
        return ModelEvaluation(measurements=ModelMeasurements(sets={}))
    absent = dict.fromkeys(metrics, make_absent_value(f"no {GENERAL} set was given"))
    return ModelEvaluation(measurements=ModelMeasurements(sets={GENERAL: absent}))


class _Progress:
    """Counts rows through all passes, estimates the time left from tokens, and checks for a stop request."""

    def __init__(self, listener: Listener, phase: Phase, passes: Sequence[tuple[int, float]]) -> None:
        self._listener, self._phase = listener, phase
        self._rows, self._work = sum(rows for rows, _ in passes), sum(work for _, work in passes)
        self._done_rows, self._done_work = 0, 0.0
        self._started_at = self._emitted_at = time.monotonic()

    def tick(self, num_rows: int, work: float) -> None:
        """Count finished rows. Raises RunInterruptedError or RunCancelledError if a stop was requested."""
        raise_if_stop_requested(self._listener)
        self._done_rows += num_rows
        self._done_work += work
        now = time.monotonic()
        if num_rows and (now - self._emitted_at >= _EVENT_SECONDS or self._done_rows == self._rows):
            self._emitted_at = now
            seconds_left = max(0.0, self._work - self._done_work) / self._done_work * (now - self._started_at)
            self._listener.emit(
                "progress",
                phase=self._phase,
                done=self._done_rows,
                total=self._rows,
                unit="rows",
                eta_seconds=round(seconds_left, 1),
            )
