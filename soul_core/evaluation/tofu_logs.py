"""TOFU's summary numbers from per-example evaluation logs, as published ones can be compared with ours.

Forget quality compares an unlearned model with a model retrained without the forget set; a log alone has none.
Source: TOFU (arXiv:2401.06121, sections 2.2 and 3); PrivLeak of MUSE (arXiv:2407.06460, equation 5).
"""

import gzip
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from soul_core.atomic_io import write_atomically
from soul_core.errors import BadData
from soul_core.evaluation.tofu_format import (
    FORGET_TRUTH_RATIO,
    MIN_K_ATTACK,
    REQUIRED_NAMES,
    UTILITY_METRICS,
    TofuLog,
    make_tofu_log,
    parse_tofu_log,
    read_log_rows,
    read_log_texts,
    read_log_values,
)
from soul_core.metrics.statistics import auc, harmonic_mean, ks_p_value
from soul_core.report import ModelMeasurements, Report
from soul_core.spec import FORGET, HOLDOUT, JUDGED_MODEL, RETRAINED
from soul_core.texts import fold


@dataclass(frozen=True)
class TofuScores:
    """The numbers of one unlearned model against its retain model."""

    forget_quality: float
    """p-value: is the truth ratio on the forget set distributed as the retain model's? Above 0.05 nobody can tell."""
    model_utility: float
    retain_model_utility: float
    privleak: float
    """Percent: 0 like the retain model; negative under-forgotten (members show), positive over-forgotten."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class RetrainedLog:
    """What was measured of a retrained model. `texts`: set -> row number -> (what it was given, the right answer)."""

    measurements: ModelMeasurements
    texts: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)


def read_tofu_log(path: Path) -> TofuLog:
    """Read a log, or make one of measurements of ours. Raises BadData for what is neither."""
    document = _read(path)
    if (measured := _measurements_in(document, path, of_reference=False)) is not None:
        return make_tofu_log(measured)
    missing = [name for name in REQUIRED_NAMES if name not in document]
    if missing:
        raise BadData(f"{path} is no TOFU evaluation log", details=tuple(f"it lacks {name}" for name in missing))
    return document


def read_retrained_log(path: Path) -> RetrainedLog:
    """Read what was measured of a retrained model: a TOFU log, measurements of ours, or the report of the job that
    retrained or evaluated it. A log may hold less than a whole one. Raises BadData.
    """
    document = _read(path)
    measured = _measurements_in(document, path, of_reference=True)
    log = (
        RetrainedLog(parse_tofu_log(document), read_log_texts(document)) if measured is None else RetrainedLog(measured)
    )
    if not log.measurements.sets:
        raise BadData(f"{path} is neither a TOFU evaluation log nor a report nor measurements of ours")
    return log


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or 'it is damaged'}") from error
    except (ValueError, EOFError) as error:
        raise BadData(f"{path} is no evaluation log: not JSON, plain or gzip") from error
    if not isinstance(document, dict):
        raise BadData(f"{path} is no evaluation log: not a JSON object")
    return document


def read_report(path: Path) -> Report:
    """Read a report of ours. Raises BadData."""
    return _report_in(_read(path), path)


def _report_in(document: dict[str, Any], path: Path) -> Report:
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        raise BadData(
            f"{path} is not a report of this version of SOUL ({error.error_count()} fields differ); run the job again"
        ) from error


def _measurements_in(document: dict[str, Any], path: Path, *, of_reference: bool) -> ModelMeasurements | None:
    """Return our own measurements; of a report those of the model it judges, or of its reference where it has one."""
    if "sets" in document:
        try:
            return ModelMeasurements.model_validate(document)
        except ValidationError as error:
            raise BadData(f"{path} holds no measurements of this version: {error.error_count()} problems") from error
    if "schema_version" not in document:
        return None
    report = _report_in(document, path)
    if of_reference and report.spec.kind == "unlearn" and RETRAINED not in report.models:
        raise BadData(f"{path} is the report of an unlearning without a reference: it says nothing of one")
    return report.models[RETRAINED if of_reference and RETRAINED in report.models else JUDGED_MODEL[report.spec.kind]]


def write_tofu_log(log: TofuLog, path: Path) -> None:
    """Write a log in the same format; gzip when the name ends so."""
    text = json.dumps(log, allow_nan=False).encode()
    write_atomically(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def score_logs(unlearned: TofuLog, retain: TofuLog) -> TofuScores:
    """Compute the four numbers. Raises BadData when the logs are of different forget or holdout sets."""
    check_same_rows(unlearned, retain)
    ours, theirs = (
        read_log_rows(log.get(FORGET_TRUTH_RATIO), "score", FORGET_TRUTH_RATIO) for log in (unlearned, retain)
    )
    return TofuScores(
        forget_quality=ks_p_value(list(ours.values()), list(theirs.values())),
        model_utility=compute_model_utility(unlearned),
        retain_model_utility=compute_model_utility(retain),
        privleak=compute_privleak(compute_attack_auc(unlearned), compute_attack_auc(retain)),
    )


def check_same_rows(unlearned: TofuLog, retain: TofuLog) -> Literal["content", "texts", "position"]:
    """Say how it is known that two logs are of the same forget and holdout rows: by their digests, by the answers they
    hold, or by row numbers alone, which prove nothing. Order does not matter: none of the four numbers pairs rows.

    Raises BadData when they are of other rows.
    """
    ours, theirs = (
        read_log_rows(log.get(FORGET_TRUTH_RATIO), "score", FORGET_TRUTH_RATIO) for log in (unlearned, retain)
    )
    if len(ours) != len(theirs):
        raise BadData(f"the logs are of different forget sets: {len(ours)} and {len(theirs)} rows")
    digests = [_contents(log) for log in (unlearned, retain)]
    if digests[0] and digests[1] and digests[0].keys() == digests[1].keys():
        for key_id, name in digests[0]:
            _require_same(name, *(contents[key_id, name] for contents in digests))
        return "content"
    answers = [
        [_plain(answer) for _, answer in read_log_texts(log).get(FORGET, {}).values()] for log in (unlearned, retain)
    ]
    if all(answers):
        _require_same(FORGET, *answers)
        return "texts"
    if ours.keys() != theirs.keys():
        raise BadData(f"the logs are of different forget sets: of {len(ours)} rows each, with other row numbers")
    return "position"


def _contents(log: TofuLog) -> dict[tuple[str, str], list[str]]:
    """Return the digests of the rows that are compared, by the id of their key and the set."""
    measured = parse_tofu_log(log)
    key = measured.row_key
    return {
        (key.id, name): list(measured.digests[name]) for name in (FORGET, HOLDOUT) if key and name in measured.digests
    }


def _require_same(name: str, ours: list[str], theirs: list[str]) -> None:
    common = sum((Counter(ours) & Counter(theirs)).values())
    if common < len(ours) or common < len(theirs):
        raise BadData(
            f"the logs are of different {name} sets: {common} of {len(ours)} and {len(theirs)} rows are in both; take "
            "both logs on the same rows"
        )


def _plain(text: str) -> str:
    return " ".join(fold(text).split())


def compute_model_utility(log: TofuLog) -> float:
    """Return the harmonic mean of the nine abilities, from the per-example values."""
    abilities = [(read_log_values(log, name, field), field) for name, field in UTILITY_METRICS]
    parts = [np.maximum(0, 1 - x_N) if field == "score" else x_N for x_N, field in abilities]
    return harmonic_mean([float(x_N.mean()) for x_N in parts])


def compute_attack_auc(log: TofuLog) -> float:
    """Return the AUC of Min-K% with the forget set as members. Scores are losses: members have lower ones."""
    return auc(
        -read_log_values(log[MIN_K_ATTACK], "forget", "score"), -read_log_values(log[MIN_K_ATTACK], "holdout", "score")
    )


def compute_privleak(auc_unlearned: float, auc_retrained: float) -> float:
    """Return PrivLeak in percent, in MUSE's sign.

    MUSE ranks by the loss itself, so its AUC is one minus ours: a model that still shows its members is at -100.
    """
    theirs = 1 - auc_retrained
    if theirs == 0:
        raise BadData("the retain model itself separates members perfectly: PrivLeak has no meaning here")
    return (1 - auc_unlearned - theirs) / theirs * 100
