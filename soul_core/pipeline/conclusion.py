"""All that a run has found, made into its report: models beside each other, criteria, verdict, caveats."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from soul_core.attacks.runner import results
from soul_core.conflicts.retain_set import ComparedSets
from soul_core.environment import environment, versions
from soul_core.evaluation.caveats import caveats_of_export, limits_of
from soul_core.evaluation.recitals import find_recitals
from soul_core.evaluation.row_selection import side_by_side
from soul_core.evaluation.verdict import conclude
from soul_core.pipeline.comparison import Log, compare, judge_run
from soul_core.pipeline.model_under_test import Examined, Subject
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies.single import Outcome
from soul_core.report import ExportFacts, ReferenceFacts, Report, RunFacts
from soul_core.spec import JUDGED, JobSpec
from soul_core.training.history import Trained


@dataclass(frozen=True)
class RunResults:
    """What a run leaves for its report."""

    spec: JobSpec
    subject: Subject
    compared: ComparedSets
    examined: Mapping[str, Examined]
    log: Log | None
    reference: ReferenceFacts | None
    outcome: Outcome
    exported: ExportFacts | None


def build_report(found: RunResults, state: RunState, *, job_id: str | None) -> Report:
    """Compare the models, judge the criteria, conclude, and say what the numbers cannot say."""
    spec, subject, compared, examined = found.spec, found.subject, found.compared, found.examined
    judged = JUDGED[spec.kind]
    models = compare(spec, judged, examined, found.log)
    attacks = results(
        {name: examined[name].attacked for name in models if name in examined}, spec, judged=judged, measured=models
    )
    criteria = judge_run(spec, judged, models, attacks)
    measured_rows = {one.name: one.rows for one in subject.chosen}
    recitals = find_recitals(spec, measured_rows, compared.conflicts, models[judged], examined[judged].written())
    verdict, reason = conclude(
        criteria,
        confidence=spec.evaluation.confidence,
        forgetting=spec.kind != "finetune",
        recitals=recitals,
    )
    data = tuple(compared.facts(name, one.facts) for name, one in subject.sets.items())
    return Report(
        job_id=job_id,
        spec=spec,
        spec_sha256=spec.digest(),
        template_date=subject.loaded.encoder.asked_date,
        model=subject.facts,
        data=data,
        models=models,
        trials=found.outcome.trials,
        reference=found.reference,
        attacks=attacks,
        examples=side_by_side(
            subject.chosen,
            {name: examined[name].answers for name in models if name in examined},
            {name: examined[name].preambles for name in models if name in examined},
            most=spec.evaluation.side_by_side,
        ),
        criteria=criteria,
        conflicts=compared.conflicts,
        recitals=recitals,
        verdict=verdict,
        verdict_reason=reason,
        run=_run_facts(spec, subject, found.outcome.trained, state),
        export=found.exported,
        versions=versions(),
        limits=(
            *limits_of(
                spec,
                data,
                models[judged],
                models=models,
                attacks=attacks,
                conflicts=compared.conflicts,
                unfinished=_unfinished(examined[judged]),
            ),
            *caveats_of_export(found.exported),
            *(found.log.warnings if found.log else ()),
        ),
    )


def _unfinished(examined: Examined) -> dict[str, int]:
    """Count, by set, the answers that never began: the model was still thinking when it was cut off."""
    cut_off = {
        name: sum(not examined.answers[name][row] for row in preambles)
        for name, preambles in examined.preambles.items()
    }
    return {name: count for name, count in cut_off.items() if count}


def _run_facts(spec: JobSpec, subject: Subject, trained: Trained, state: RunState) -> RunFacts:
    loaded, known = subject.loaded, spec.model_train_tokens
    on_gpu = loaded.device.type == "cuda"
    return RunFacts(
        started_at=state.started_at,
        finished_at=datetime.now(UTC),
        seconds=state.seconds,
        steps=trained.steps,
        train_tokens=trained.train_tokens,
        flops=trained.flops,
        flops_of_training=6.0 * subject.facts.num_parameters * known if known else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated(loaded.device) if on_gpu else _peak_resident_bytes(),
        device=torch.cuda.get_device_name(loaded.device) if on_gpu else "cpu",
        dtype=str(loaded.compute_dtype).removeprefix("torch."),
        environment=environment(),
        resumed_at_steps=tuple(trained.resumed_at_steps),
        curves=trained.curves,
    )


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
