"""Builds the report from all results of a run: models compared, criteria judged, verdict, caveats."""

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from soul_core.attacks.runner import make_attack_results
from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.data.held_out import find_shared_rows
from soul_core.environment import get_environment, get_versions
from soul_core.evaluation.caveats import (
    collect_caveats,
    collect_export_caveats,
    collect_generated_retain_caveats,
)
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.overfitting import find_overfitting
from soul_core.evaluation.recitals import find_recitals
from soul_core.evaluation.row_selection import make_answer_samples
from soul_core.evaluation.verdict import decide_verdict
from soul_core.metrics.aggregate import Resampling
from soul_core.pipeline.comparison import RetrainedLogFile, add_logged_attacks, compare_models, judge_run
from soul_core.pipeline.data_sets import format_shared_rows
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.single import StrategyResult
from soul_core.report import (
    ExportFacts,
    GeneratedRetainFacts,
    ModelMeasurements,
    Report,
    RetrainedModelFacts,
    RunFacts,
)
from soul_core.spec import BASE, JUDGED_MODEL, RETAIN, RETAIN_HELD_OUT, UNLEARNED, JobKind, JobSpec
from soul_core.training.history import TrainingResult


@dataclass(frozen=True)
class RunResults:
    """All results of a run, from which its report is built."""

    model_under_test: ModelUnderTest
    resolution: ConflictResolution
    generated_retain: GeneratedRetainFacts | None
    evaluations: Mapping[str, ModelEvaluation]
    retrained_log: RetrainedLogFile | None
    retrained: RetrainedModelFacts | None
    strategy_result: StrategyResult
    export_facts: ExportFacts | None


def build_report(spec: JobSpec, results: RunResults, state: RunState, *, job_id: str | None) -> Report:
    """Compare the models, judge the criteria, decide the verdict, and state what the numbers cannot show."""
    model, evaluations = results.model_under_test, results.evaluations
    conflicts = results.resolution.conflicts
    judged = JUDGED_MODEL[spec.kind]
    models = compare_models(spec, judged, evaluations, results.retrained_log)
    reported = {name: evaluations[name] for name in models if name in evaluations}
    data = tuple(results.resolution.update_facts(name, dataset.facts) for name, dataset in model.datasets.items())
    outcomes = add_logged_attacks(
        spec,
        judged,
        {name: evaluation.attacks for name, evaluation in reported.items()},
        results.retrained_log,
        {facts.name: facts.sha256 for facts in data},
    )
    attacks = make_attack_results(outcomes, spec, judged=judged, measurements=models)
    criteria = judge_run(spec, judged, models, attacks, outcomes)
    recitals = find_recitals(
        spec,
        {evaluation_set.name: evaluation_set.rows for evaluation_set in model.evaluation_sets},
        conflicts,
        models[judged],
        evaluations[judged].get_generated_texts(),
    )
    verdict, reason = decide_verdict(
        criteria,
        confidence=spec.evaluation.confidence,
        is_about_forgetting=spec.kind != JobKind.FINETUNE,
        recitals=recitals,
    )
    overfitting = _find_overfitting(spec, models)
    if overfitting:
        state.emit("warning", message=overfitting)
    return Report(
        job_id=job_id,
        spec=spec,
        spec_sha256=spec.compute_sha256(),
        template_date=model.loaded.encoder.template_date,
        model=model.facts,
        data=data,
        generated_retain=results.generated_retain,
        models=models,
        trials=results.strategy_result.trials,
        retrained=results.retrained,
        attacks=attacks,
        examples=make_answer_samples(
            model.evaluation_sets,
            {name: evaluation.answers for name, evaluation in reported.items()},
            {name: evaluation.preambles for name, evaluation in reported.items()},
            {name: evaluation.leaking_samples for name, evaluation in reported.items()},
            max_samples=spec.evaluation.num_answer_samples,
        ),
        criteria=criteria,
        conflicts=conflicts,
        recitals=recitals,
        verdict=verdict,
        verdict_reason=reason,
        run=_collect_run_facts(spec, model, results.strategy_result.training_result, state),
        export=results.export_facts,
        versions=get_versions(),
        caveats=(
            *collect_caveats(
                spec,
                data,
                models[judged],
                models=models,
                attacks=attacks,
                conflicts=conflicts,
                num_unfinished=evaluations[judged].count_unfinished_answers(),
            ),
            *collect_generated_retain_caveats(results.generated_retain),
            *([f"{overfitting}."] if overfitting else ()),
            *_collect_shared_row_caveats(model),
            *collect_export_caveats(results.export_facts),
            *(results.retrained_log.warnings if results.retrained_log else ()),
        ),
    )


def _find_overfitting(spec: JobSpec, models: Mapping[str, ModelMeasurements]) -> str | None:
    if spec.kind != JobKind.UNLEARN:
        return None
    return find_overfitting(models[UNLEARNED], models[BASE], Resampling.of(spec.evaluation, spec.seed))


def _collect_shared_row_caveats(model: ModelUnderTest) -> Iterator[str]:
    retain, held_out = model.datasets.get(RETAIN), model.datasets.get(RETAIN_HELD_OUT)
    if retain and held_out and (shared := find_shared_rows(held_out.rows, retain.rows)):
        yield f"{format_shared_rows(len(shared))}."


def _collect_run_facts(
    spec: JobSpec, model: ModelUnderTest, training_result: TrainingResult, state: RunState
) -> RunFacts:
    loaded, base_tokens = model.loaded, spec.model_train_tokens
    on_gpu = loaded.device.type == "cuda"
    return RunFacts(
        started_at=state.started_at,
        finished_at=datetime.now(UTC),
        seconds=state.phase_seconds,
        steps=training_result.steps,
        train_tokens=training_result.train_tokens,
        flops=training_result.flops,
        flops_of_training=6.0 * model.facts.num_parameters * base_tokens if base_tokens else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated(loaded.device) if on_gpu else _get_peak_resident_bytes(),
        device=torch.cuda.get_device_name(loaded.device) if on_gpu else "cpu",
        dtype=str(loaded.compute_dtype).removeprefix("torch."),
        environment=get_environment(),
        resumed_at_steps=tuple(training_result.resumed_at_steps),
        curves=training_result.curves,
    )


def _get_peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
