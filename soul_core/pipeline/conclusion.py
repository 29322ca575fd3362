"""All that a run has found, made into its report: models beside each other, criteria, verdict, caveats."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from soul_core.attacks.runner import make_attack_results
from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.environment import get_environment, get_versions
from soul_core.evaluation.caveats import collect_caveats, collect_export_caveats
from soul_core.evaluation.recitals import find_recitals
from soul_core.evaluation.row_selection import make_answer_samples
from soul_core.evaluation.verdict import decide_verdict
from soul_core.pipeline.comparison import RetrainedLogFile, compare_models, judge_run
from soul_core.pipeline.model_under_test import Examined, ModelUnderTest
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.single import StrategyResult
from soul_core.report import ExportFacts, Report, RetrainedModelFacts, RunFacts
from soul_core.spec import JUDGED_MODEL, JobSpec
from soul_core.training.history import TrainingResult


@dataclass(frozen=True)
class RunResults:
    """What a run leaves for its report."""

    spec: JobSpec
    model_under_test: ModelUnderTest
    compared_sets: ConflictResolution
    evaluations: Mapping[str, Examined]
    retrained_log: RetrainedLogFile | None
    retrained: RetrainedModelFacts | None
    strategy_result: StrategyResult
    export_facts: ExportFacts | None


def build_report(run_results: RunResults, state: RunState, *, job_id: str | None) -> Report:
    """Compare the models, judge the criteria, conclude, and say what the numbers cannot say."""
    spec, subject, compared, examined = (
        run_results.spec,
        run_results.model_under_test,
        run_results.compared_sets,
        run_results.evaluations,
    )
    judged = JUDGED_MODEL[spec.kind]
    models = compare_models(spec, judged, examined, run_results.retrained_log)
    attacks = make_attack_results(
        {name: examined[name].attacked for name in models if name in examined}, spec, judged=judged, measurements=models
    )
    criteria = judge_run(spec, judged, models, attacks)
    measured_rows = {one.name: one.rows for one in subject.evaluation_sets}
    recitals = find_recitals(spec, measured_rows, compared.conflicts, models[judged], examined[judged].written())
    verdict, reason = decide_verdict(
        criteria,
        confidence=spec.evaluation.confidence,
        is_about_forgetting=spec.kind != "finetune",
        recitals=recitals,
    )
    data = tuple(compared.update_facts(name, one.facts) for name, one in subject.datasets.items())
    return Report(
        job_id=job_id,
        spec=spec,
        spec_sha256=spec.compute_sha256(),
        template_date=subject.loaded.encoder.template_date,
        model=subject.facts,
        data=data,
        models=models,
        trials=run_results.strategy_result.trials,
        retrained=run_results.retrained,
        attacks=attacks,
        examples=make_answer_samples(
            subject.evaluation_sets,
            {name: examined[name].answers for name in models if name in examined},
            {name: examined[name].preambles for name in models if name in examined},
            max_samples=spec.evaluation.num_answer_samples,
        ),
        criteria=criteria,
        conflicts=compared.conflicts,
        recitals=recitals,
        verdict=verdict,
        verdict_reason=reason,
        run=_run_facts(spec, subject, run_results.strategy_result.training_result, state),
        export=run_results.export_facts,
        versions=get_versions(),
        caveats=(
            *collect_caveats(
                spec,
                data,
                models[judged],
                models=models,
                attacks=attacks,
                conflicts=compared.conflicts,
                num_unfinished=_unfinished(examined[judged]),
            ),
            *collect_export_caveats(run_results.export_facts),
            *(run_results.retrained_log.warnings if run_results.retrained_log else ()),
        ),
    )


def _unfinished(examined: Examined) -> dict[str, int]:
    """Count, by set, the answers that never began: the model was still thinking when it was cut off."""
    cut_off = {
        name: sum(not examined.answers[name][row] for row in preambles)
        for name, preambles in examined.preambles.items()
    }
    return {name: count for name, count in cut_off.items() if count}


def _run_facts(spec: JobSpec, subject: ModelUnderTest, trained: TrainingResult, state: RunState) -> RunFacts:
    loaded, known = subject.loaded, spec.model_train_tokens
    on_gpu = loaded.device.type == "cuda"
    return RunFacts(
        started_at=state.started_at,
        finished_at=datetime.now(UTC),
        seconds=state.phase_seconds,
        steps=trained.steps,
        train_tokens=trained.train_tokens,
        flops=trained.flops,
        flops_of_training=6.0 * subject.facts.num_parameters * known if known else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated(loaded.device) if on_gpu else _peak_resident_bytes(),
        device=torch.cuda.get_device_name(loaded.device) if on_gpu else "cpu",
        dtype=str(loaded.compute_dtype).removeprefix("torch."),
        environment=get_environment(),
        resumed_at_steps=tuple(trained.resumed_at_steps),
        curves=trained.curves,
    )


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
