"""Runs a spec's attacks on one model after the other, and compares the models for the report.

`run()` calls `attack_model` for each model while it is loaded, and `make_attack_results` at the end.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from soul_core.atomic_io import write_atomically
from soul_core.attacks import ATTACKS
from soul_core.attacks.context import (
    AttackContext,
    AttackNotPossible,
    get_attack_metrics,
    measure_for_attack,
)
from soul_core.attacks.poison import find_most_affected_rows
from soul_core.attacks.progress import AttackProgress
from soul_core.attacks.snapshot import compute_fingerprint, preserve_rng_state
from soul_core.catalogue import METRIC_CATALOG
from soul_core.errors import EngineError, OutOfMemory, TrainingDivergedError
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import Listener, raise_if_stop_requested
from soul_core.metrics.aggregate import Resampling, compute_gain
from soul_core.models.layers import LayersNotFoundError
from soul_core.models.loading import LoadedModel
from soul_core.report import AttackResult, ModelMeasurements, SetMetrics
from soul_core.spec import BASE, FORGET, JobSpec
from soul_core.spec.attacks import Attack, Poison, label_attacks


def attack_model(
    loaded: LoadedModel,
    model_name: str,
    full_sets: Sequence[EvaluationSet],
    spec: JobSpec,
    *,
    listener: Listener,
    results_dir: Path,
) -> dict[str, AttackOutcome]:
    """Run every attack of the spec on one model and leave the model bit-identical to what it was.

    An attack that lacks an input, or memory, is absent with the reason; it does not end the run.

    Args:
        model_name: The model's name in the report.
        full_sets: All rows of all data sets; the rows to measure are selected here.
        results_dir: Folder of finished attacks, which are read from it. It must belong to these weights.

    Raises:
        RunCancelledError, RunInterruptedError: A stop was requested.
    """
    attacks = label_attacks(spec.attacks)
    if not attacks:
        return {}
    results_dir.mkdir(parents=True, exist_ok=True)
    progress = AttackProgress(listener, model_name=model_name, num_attacks=len(attacks))
    sets_by_name = {full_set.name: full_set for full_set in full_sets}
    fingerprint = compute_fingerprint(loaded.model)
    outcomes: dict[str, AttackOutcome] = {}
    with preserve_rng_state():
        for label, attack in attacks.items():
            path, folder = results_dir / f"{label}.json", results_dir / f"{label}.work"
            outcome = _read_outcome(path)
            if outcome is None:
                raise_if_stop_requested(listener)
                progress.begin(label)
                outcome = _run_attack(loaded, model_name, sets_by_name, spec, attack, progress, folder=folder)
                if compute_fingerprint(loaded.model) != fingerprint:
                    raise EngineError(f"{label} left the model {model_name} changed: no later result would be valid")
                write_atomically(path, outcome.model_dump_json())
                shutil.rmtree(folder, ignore_errors=True)
            outcomes[label] = outcome
            progress.finish(seconds=None if outcome.absent_reason else outcome.seconds)
    return outcomes


def _run_attack(
    loaded: LoadedModel,
    model_name: str,
    full_sets: Mapping[str, EvaluationSet],
    spec: JobSpec,
    attack: Attack,
    progress: AttackProgress,
    *,
    folder: Path,
) -> AttackOutcome:
    """Run one attack. Its `seconds` are those of this attempt."""
    started_at = time.monotonic()
    if FORGET not in full_sets:
        return AttackOutcome(absent_reason=f"no {FORGET} set was given")
    try:
        selection = choose_rows(
            FORGET,
            full_sets[FORGET].rows,
            full_sets[FORGET].examples,
            max_rows=spec.evaluation.attack_examples,
            seed=spec.seed,
        )
        metrics, baseline_dir = get_attack_metrics(spec), folder.parent / "baseline"
        baseline = measure_for_attack(loaded, [selection], spec, metrics, progress, baseline_dir)[FORGET]
        folder.mkdir(parents=True, exist_ok=True)
        context = AttackContext(loaded, model_name, full_sets, selection, baseline, spec, progress, folder)
        outcome = ATTACKS[attack.kind](context, attack)
    except (AttackNotPossible, LayersNotFoundError) as reason:
        return AttackOutcome(absent_reason=str(reason))
    except (OutOfMemory, TrainingDivergedError) as error:
        progress.emit("warning", message=f"the attack failed: {error.message}")
        return AttackOutcome(absent_reason=error.message, seconds=time.monotonic() - started_at)
    return outcome.model_copy(update={"seconds": time.monotonic() - started_at})


def _read_outcome(path: Path) -> AttackOutcome | None:
    """Return a saved outcome; None if there is none, or if another version wrote it."""
    if not path.exists():
        return None
    try:
        return AttackOutcome.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def make_attack_results(
    outcomes_by_model: Mapping[str, Mapping[str, AttackOutcome]],
    spec: JobSpec,
    *,
    judged: str,
    measurements: Mapping[str, ModelMeasurements],
) -> tuple[AttackResult, ...]:
    """Compare the models, with one result per attack of the spec.

    Args:
        outcomes_by_model: Name of the model -> what `attack_model` returned.
        judged: Name of the judged model.
        measurements: All models without attacks, from which the rows that poisoned rows damaged are found.
    """
    results = []
    for label, attack in label_attacks(spec.attacks).items():
        outcomes = {model: by_label[label] for model, by_label in outcomes_by_model.items() if label in by_label}
        result = _compare_outcomes(label, attack, outcomes, Resampling.of(spec.evaluation, spec.seed))
        if isinstance(attack, Poison) and {BASE, judged} <= measurements.keys() and judged != BASE:
            findings = find_most_affected_rows(measurements[BASE], measurements[judged], max_rows=attack.rows)
            result = result.model_copy(
                update={
                    "findings": result.findings + findings,
                    "absent_reason": None if findings else result.absent_reason,
                }
            )
        results.append(result)
    return tuple(results)


def _compare_outcomes(
    label: str, attack: Attack, outcomes: Mapping[str, AttackOutcome], resampling: Resampling
) -> AttackResult:
    completed = {model: outcome for model, outcome in outcomes.items() if outcome.absent_reason is None}
    reasons = {model: outcome.absent_reason for model, outcome in outcomes.items() if outcome.absent_reason}
    variants: dict[str, dict[str, SetMetrics]] = {}
    for model, outcome in completed.items():
        for variant, metrics in outcome.variants.items():
            variants.setdefault(variant, {})[model] = metrics
    notes = [note for outcome in completed.values() for note in outcome.notes]
    if completed and not isinstance(attack, Poison):  # that one runs on the base model only
        notes += [f"Not run on {model}: {reason}." for model, reason in reasons.items()]
    first = next(iter(completed.values()), AttackOutcome())
    return AttackResult(
        label=label,
        settings=attack.model_dump(mode="json"),
        baseline={model: outcome.baseline for model, outcome in completed.items() if outcome.baseline},
        attacked={model: outcome.attacked for model, outcome in completed.items() if outcome.attacked},
        gains={model: gains for model, outcome in completed.items() if (gains := _compute_gains(outcome, resampling))},
        rows=first.rows,
        variants=variants,
        findings=completed.get(BASE, first).findings,
        notes=_remove_duplicates(notes),
        seconds=sum(outcome.seconds for outcome in outcomes.values()),
        absent_reason=None
        if completed
        else "; ".join(_remove_duplicates(map(str, reasons.values()))) or "it was run on no model",
    )


def _compute_gains(outcome: AttackOutcome, resampling: Resampling) -> dict[str, SetMetrics]:
    """Return what the attack brought back on each set, in every metric that is a mean of rows."""
    gains: dict[str, SetMetrics] = {}
    for set_name, metrics in outcome.attacked.items():
        baseline = outcome.baseline.get(set_name, {})
        for metric in metrics.keys() & baseline.keys():
            gain = compute_gain(
                baseline[metric], metrics[metric], resampling, aggregate=METRIC_CATALOG[metric].get_aggregate(set_name)
            )
            if gain.value is not None:
                gains.setdefault(set_name, {})[metric] = gain.model_copy(update={"per_example": None, "weights": None})
    return gains


def _remove_duplicates(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
