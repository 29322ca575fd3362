"""TOFU's summary numbers from per-example evaluation logs, so that published logs can be compared with ours.

Forget quality compares an unlearned model with a model retrained without the forget set, so it needs two logs.
Source: TOFU (arXiv:2401.06121, sections 2.2 and 3); PrivLeak of MUSE (arXiv:2407.06460, equation 5).
"""

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from soul_core.atomic_io import write_atomically
from soul_core.errors import BadData
from soul_core.evaluation.logged_attacks import LoggedAttack, collect_logged_attacks
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
from soul_core.spec import FORGET, HOLDOUT, JUDGED_MODEL, RETRAINED, JobKind
from soul_core.texts import fold_to_line


@dataclass(frozen=True)
class TofuScores:
    """The numbers of one unlearned model against its retain model."""

    forget_quality: float
    """p-value of equal truth ratios on the forget set. Above 0.05 the two models are not distinguishable."""
    model_utility: float
    retain_model_utility: float
    privleak: float
    """Percent: 0 as the retain model; negative: under-forgotten (members are visible); positive: over-forgotten."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class RetrainedLog:
    """What was measured on a retrained model."""

    measurements: ModelMeasurements
    texts: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    """Set -> row number -> (the model's input, the expected answer)."""
    attacks: Mapping[str, LoggedAttack] = field(default_factory=dict)
    """Label -> an attack on that model; only a report has any."""


def read_tofu_log(path: Path) -> TofuLog:
    """Read a log, or make one of our measurements. Raises BadData for any other file."""
    document = _read_json(path)
    if "sets" in document:
        return make_tofu_log(_parse_measurements(document, path))
    if "schema_version" in document:
        report = _parse_report(document, path)
        return make_tofu_log(report.models[JUDGED_MODEL[report.spec.kind]])
    missing = [name for name in REQUIRED_NAMES if name not in document]
    if missing:
        raise BadData(f"{path} is not a TOFU evaluation log", details=tuple(f"it lacks {name}" for name in missing))
    return document


def read_retrained_log(path: Path) -> RetrainedLog:
    """Read what was measured on a retrained model.

    The file is a TOFU log, which may be incomplete, our measurements, or the report of the job that retrained or
    evaluated the model. Raises BadData for any other file.
    """
    document = _read_json(path)
    if "sets" in document:
        log = RetrainedLog(_parse_measurements(document, path))
    elif "schema_version" in document:
        report = _parse_report(document, path)
        model = _find_retrained_model(report, path)
        log = RetrainedLog(report.models[model], attacks=collect_logged_attacks(report, model))
    else:
        log = RetrainedLog(parse_tofu_log(document), read_log_texts(document))
    if not log.measurements.sets:
        raise BadData(f"{path} is neither a TOFU evaluation log nor a report nor measurements of SOUL")
    return log


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        document = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or 'it is damaged'}") from error
    except (ValueError, EOFError) as error:
        raise BadData(f"{path} is not an evaluation log: it is not JSON, plain or gzip") from error
    if not isinstance(document, dict):
        raise BadData(f"{path} is not an evaluation log: it is not a JSON object")
    return document


def read_report(path: Path) -> Report:
    """Read a report of SOUL. Raises BadData."""
    return _parse_report(_read_json(path), path)


def _parse_report(document: dict[str, Any], path: Path) -> Report:
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        raise BadData(
            f"{path} is not a report of this version of SOUL ({error.error_count()} fields differ); run the job again"
        ) from error


def _parse_measurements(document: dict[str, Any], path: Path) -> ModelMeasurements:
    try:
        return ModelMeasurements.model_validate(document)
    except ValidationError as error:
        raise BadData(f"{path} does not hold measurements of this version: {error.error_count()} problems") from error


def _find_retrained_model(report: Report, path: Path) -> str:
    """Return the name of the retrained model in a report: its own, or the judged model that a job retrained."""
    if RETRAINED in report.models:
        return RETRAINED
    if report.spec.kind == JobKind.UNLEARN:
        raise BadData(f"{path} is the report of an unlearning job that was not compared with a retrained model")
    return JUDGED_MODEL[report.spec.kind]


def write_tofu_log(log: TofuLog, path: Path) -> None:
    """Write a log in TOFU's format; compressed if the name ends in .gz."""
    text = json.dumps(log, allow_nan=False).encode()
    write_atomically(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def score_logs(unlearned: TofuLog, retain: TofuLog) -> TofuScores:
    """Compute the four numbers. Raises BadData if the logs are of different forget or holdout sets."""
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
    """Return by what two logs are known to be of the same forget and holdout rows.

    By digests, by the answers in them, or by row numbers alone, which prove nothing. The order may differ: none of the
    four numbers pairs rows. Raises BadData if the rows are different.
    """
    ours, theirs = (
        read_log_rows(log.get(FORGET_TRUTH_RATIO), "score", FORGET_TRUTH_RATIO) for log in (unlearned, retain)
    )
    if len(ours) != len(theirs):
        raise BadData(f"the logs are of different forget sets: {len(ours)} and {len(theirs)} rows")
    digests = [_list_digests(log) for log in (unlearned, retain)]
    if digests[0] and digests[1] and digests[0].keys() == digests[1].keys():
        for key_id, name in digests[0]:
            _require_same(name, *(of_log[key_id, name] for of_log in digests))
        return "content"
    answers = [
        [fold_to_line(answer) for _, answer in read_log_texts(log).get(FORGET, {}).values()]
        for log in (unlearned, retain)
    ]
    if all(answers):
        _require_same(FORGET, *answers)
        return "texts"
    if ours.keys() != theirs.keys():
        raise BadData(f"the logs are of different forget sets: of {len(ours)} rows each, with other row numbers")
    return "position"


def _list_digests(log: TofuLog) -> dict[tuple[str, str], list[str]]:
    """Return (id of the key, set) -> digests of the compared rows."""
    measurements = parse_tofu_log(log)
    key = measurements.row_key
    return {
        (key.id, name): list(measurements.digests[name])
        for name in (FORGET, HOLDOUT)
        if key and name in measurements.digests
    }


def _require_same(name: str, ours: list[str], theirs: list[str]) -> None:
    num_common = sum((Counter(ours) & Counter(theirs)).values())
    if num_common < len(ours) or num_common < len(theirs):
        raise BadData(
            f"the logs are of different {name} sets: {num_common} of {len(ours)} and {len(theirs)} rows are in both; "
            "measure both models on the same rows"
        )


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
    """Return PrivLeak in percent, with MUSE's sign.

    MUSE ranks by the loss itself, so its AUC is one minus ours: a model whose members are all visible is at -100.
    """
    theirs = 1 - auc_retrained
    if theirs == 0:
        raise BadData("the retain model itself separates members perfectly: PrivLeak is not defined")
    return (1 - auc_unlearned - theirs) / theirs * 100
