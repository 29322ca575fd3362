"""Runs a spec's attacks on one model after the other, and puts the models side by side for the report.

`run()` calls `attack_model` for base, judged model, reference and others while each is loaded, `results` at the end.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from soul_core.atomic_io import write_durably
from soul_core.attacks import ATTACKS
from soul_core.attacks.context import Attacked, NotPossibleError, Scene, attack_metrics, measure_under
from soul_core.attacks.poison import hits
from soul_core.attacks.progress import Telling
from soul_core.attacks.snapshot import fingerprint, untouched_randomness
from soul_core.errors import Diverged, EngineError, OutOfMemory
from soul_core.evaluation.row_selection import EvaluationSet, choose
from soul_core.events import Listener, stop_if_asked
from soul_core.models.loading import Loaded
from soul_core.report import AttackResult, ModelMeasurements, SetMetrics
from soul_core.spec import BASE, FORGET, JobSpec
from soul_core.spec.attacks import Attack, Poison, labelled


def attack_model(
    loaded: Loaded,
    name: str,
    sets: Sequence[EvaluationSet],
    spec: JobSpec,
    *,
    listener: Listener,
    kept: Path,
) -> dict[str, Attacked]:
    """Run every attack of the spec on one model and leave the model as it was, bit for bit.

    `name` is the model's in the report, `sets` are the WHOLE data sets (what is measured is chosen here). An attack
    that finished before, in an interrupted run, is read from `kept`, which must belong to these very weights. What
    an attack lacks, memory included, makes it absent with the reason; it does not end the run.
    Raises Cancelled or Interrupted when that is wished.
    """
    attacks = labelled(spec.attacks)
    if not attacks:
        return {}
    kept.mkdir(parents=True, exist_ok=True)
    telling = Telling(listener, model=name, total=len(attacks))
    whole = {one.name: one for one in sets}
    before = fingerprint(loaded.model)
    finished: dict[str, Attacked] = {}
    with untouched_randomness():
        for label, attack in attacks.items():
            path = kept / f"{label}.json"
            result = _read(path)
            if result is None:
                stop_if_asked(listener)
                telling.begin(label)
                result = _run(loaded, name, whole, spec, attack, telling, kept, folder=kept / f"{label}.work")
                if fingerprint(loaded.model) != before:
                    raise EngineError(f"{label} left the model {name} changed: nothing after it would count")
                write_durably(path, result.model_dump_json())
                shutil.rmtree(kept / f"{label}.work", ignore_errors=True)
            finished[label] = result
            telling.finished(seconds=None if result.absent_reason else result.seconds)
    return finished


def results(
    per_model: Mapping[str, Mapping[str, Attacked]],
    spec: JobSpec,
    *,
    judged: str,
    measured: Mapping[str, ModelMeasurements],
) -> tuple[AttackResult, ...]:
    """Put the models (name -> what `attack_model` returned) side by side, one result an attack of the spec.

    `measured` are all models' measurements without attacks: they show whom poisoned rows hit in the `judged` model.
    """
    compared = []
    for label, attack in labelled(spec.attacks).items():
        of_models = {model: attacked[label] for model, attacked in per_model.items() if label in attacked}
        result = _side_by_side(label, attack, of_models)
        if isinstance(attack, Poison) and {BASE, judged} <= measured.keys() and judged != BASE:
            found = hits(measured[BASE], measured[judged], most=attack.rows)
            result = result.model_copy(
                update={
                    "findings": result.findings + found,
                    "absent_reason": None if found else result.absent_reason,
                }
            )
        compared.append(result)
    return tuple(compared)


def _run(
    loaded: Loaded,
    name: str,
    whole: Mapping[str, EvaluationSet],
    spec: JobSpec,
    attack: Attack,
    telling: Telling,
    kept: Path,
    *,
    folder: Path,
) -> Attacked:
    """Run one attack; its time is that of this attempt."""
    started = time.monotonic()
    if FORGET not in whole:
        return Attacked(absent_reason=f"no {FORGET} set was given")
    try:
        of_set = whole[FORGET]
        forget = choose(FORGET, of_set.rows, of_set.examples, most=spec.evaluation.attack_examples, seed=spec.seed)
        plain = measure_under(loaded, [forget], spec, attack_metrics(spec), telling, kept / "without")[FORGET].metrics
        scene = Scene(loaded, name, whole, forget, plain, spec, telling, folder)
        folder.mkdir(parents=True, exist_ok=True)
        result = ATTACKS[attack.kind](scene, attack)
    except NotPossibleError as reason:
        return Attacked(absent_reason=str(reason))
    except (OutOfMemory, Diverged) as error:
        telling.emit("warning", message=f"given up: {error.message}")
        return Attacked(absent_reason=error.message, seconds=time.monotonic() - started)
    return result.model_copy(update={"seconds": time.monotonic() - started})


def _side_by_side(label: str, attack: Attack, of_models: Mapping[str, Attacked]) -> AttackResult:
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
        without={model: one.without for model, one in ran.items() if one.without},
        under={model: one.under for model, one in ran.items() if one.under},
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


def _read(path: Path) -> Attacked | None:
    if not path.exists():
        return None
    try:
        return Attacked.model_validate_json(path.read_text())
    except ValidationError:  # of another version: measured again
        return None
