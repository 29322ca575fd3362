"""Runs a spec's attacks on one model after the other, and puts the models side by side for the report.

`run()` calls `attack_model` for base, judged model, reference and others while each is loaded, `results` at the end.
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
    AttackOutcome,
    get_attack_metrics,
    measure_for_attack,
)
from soul_core.attacks.poison import find_most_affected_rows
from soul_core.attacks.progress import AttackProgress
from soul_core.attacks.snapshot import compute_fingerprint, preserve_rng_state
from soul_core.errors import EngineError, OutOfMemory, TrainingDivergedError
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows
from soul_core.events import Listener, raise_if_stop_requested
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
    """Run every attack of the spec on one model and leave the model as it was, bit for bit.

    `name` is the model's in the report, `sets` are the WHOLE data sets (what is measured is chosen here). An attack
    that finished before, in an interrupted run, is read from `kept`, which must belong to these very weights. What
    an attack lacks, memory included, makes it absent with the reason; it does not end the run.
    Raises Cancelled or Interrupted when that is wished.
    """
    attacks = label_attacks(spec.attacks)
    if not attacks:
        return {}
    results_dir.mkdir(parents=True, exist_ok=True)
    telling = AttackProgress(listener, model_name=model_name, num_attacks=len(attacks))
    whole = {one.name: one for one in full_sets}
    before = compute_fingerprint(loaded.model)
    finished: dict[str, AttackOutcome] = {}
    with preserve_rng_state():
        for label, attack in attacks.items():
            path = results_dir / f"{label}.json"
            result = _read(path)
            if result is None:
                raise_if_stop_requested(listener)
                telling.begin(label)
                result = _run(
                    loaded, model_name, whole, spec, attack, telling, results_dir, folder=results_dir / f"{label}.work"
                )
                if compute_fingerprint(loaded.model) != before:
                    raise EngineError(f"{label} left the model {model_name} changed: nothing after it would count")
                write_atomically(path, result.model_dump_json())
                shutil.rmtree(results_dir / f"{label}.work", ignore_errors=True)
            finished[label] = result
            telling.finish(seconds=None if result.absent_reason else result.seconds)
    return finished


def make_attack_results(
    outcomes_by_model: Mapping[str, Mapping[str, AttackOutcome]],
    spec: JobSpec,
    *,
    judged: str,
    measurements: Mapping[str, ModelMeasurements],
) -> tuple[AttackResult, ...]:
    """Put the models (name -> what `attack_model` returned) side by side, one result an attack of the spec.

    `measured` are all models' measurements without attacks: they show whom poisoned rows hit in the `judged` model.
    """
    compared = []
    for label, attack in label_attacks(spec.attacks).items():
        of_models = {model: attacked[label] for model, attacked in outcomes_by_model.items() if label in attacked}
        result = _side_by_side(label, attack, of_models)
        if isinstance(attack, Poison) and {BASE, judged} <= measurements.keys() and judged != BASE:
            found = find_most_affected_rows(measurements[BASE], measurements[judged], max_rows=attack.rows)
            result = result.model_copy(
                update={
                    "findings": result.findings + found,
                    "absent_reason": None if found else result.absent_reason,
                }
            )
        compared.append(result)
    return tuple(compared)


def _run(
    loaded: LoadedModel,
    name: str,
    whole: Mapping[str, EvaluationSet],
    spec: JobSpec,
    attack: Attack,
    telling: AttackProgress,
    kept: Path,
    *,
    folder: Path,
) -> AttackOutcome:
    """Run one attack; its time is that of this attempt."""
    started = time.monotonic()
    if FORGET not in whole:
        return AttackOutcome(absent_reason=f"no {FORGET} set was given")
    try:
        of_set = whole[FORGET]
        forget = choose_rows(
            FORGET, of_set.rows, of_set.examples, max_rows=spec.evaluation.attack_examples, seed=spec.seed
        )
        plain = measure_for_attack(loaded, [forget], spec, get_attack_metrics(spec), telling, kept / "without")[
            FORGET
        ].metrics
        scene = AttackContext(loaded, name, whole, forget, plain, spec, telling, folder)
        folder.mkdir(parents=True, exist_ok=True)
        result = ATTACKS[attack.kind](scene, attack)
    except (AttackNotPossible, LayersNotFoundError) as reason:
        return AttackOutcome(absent_reason=str(reason))
    except (OutOfMemory, TrainingDivergedError) as error:
        telling.emit("warning", message=f"given up: {error.message}")
        return AttackOutcome(absent_reason=error.message, seconds=time.monotonic() - started)
    return result.model_copy(update={"seconds": time.monotonic() - started})


def _side_by_side(label: str, attack: Attack, of_models: Mapping[str, AttackOutcome]) -> AttackResult:
    ran = {model: one for model, one in of_models.items() if one.absent_reason is None}
    reasons = {model: one.absent_reason for model, one in of_models.items() if one.absent_reason}
    variants: dict[str, dict[str, SetMetrics]] = {}
    for model, one in ran.items():
        for variant, metrics in one.variants.items():
            variants.setdefault(variant, {})[model] = metrics
    quiet = isinstance(attack, Poison)  # absent on all models but the base, as it should be
    notes = [note for one in ran.values() for note in one.notes]
    notes += [] if quiet and ran else [f"Not run on {model}: {reason}." for model, reason in reasons.items() if ran]
    return AttackResult(
        label=label,
        settings=attack.model_dump(mode="json"),
        baseline={model: one.baseline for model, one in ran.items() if one.baseline},
        attacked={model: one.attacked for model, one in ran.items() if one.attacked},
        rows=next((one.rows for one in ran.values()), {}),
        variants=variants,
        findings=ran[BASE].findings if BASE in ran else next((one.findings for one in ran.values()), ()),
        notes=_unique(notes),
        seconds=sum(one.seconds for one in of_models.values()),
        absent_reason=None if ran else _why(reasons),
    )


def _why(reasons: Mapping[str, str | None]) -> str:
    return "; ".join(_unique(str(reason) for reason in reasons.values())) or "it was run on no model"


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _read(path: Path) -> AttackOutcome | None:
    if not path.exists():
        return None
    try:
        return AttackOutcome.model_validate_json(path.read_text())
    except ValidationError:  # of another version: measured again
        return None
