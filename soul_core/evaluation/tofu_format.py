"""TOFU's log format and our measurements, one made of the other. Index i of a log is row i + 1 of the data set.

A log is JSON (`*_EVAL.json`, plain or gzip): metric -> {agg_value, value_by_index}; a membership attack has one of
these for each of its two sets.
Source: the official logs of TOFU (arXiv:2401.06121).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from soul_core.catalogue import METRIC_CATALOG
from soul_core.errors import BadData
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.statistics import Floats
from soul_core.report import ModelMeasurements, RowDigestKey
from soul_core.spec import ALL, FORGET, HOLDOUT, RETAIN, Evaluation

TofuLog = dict[str, Any]

REAL_AUTHORS, WORLD_FACTS = "real_authors", "world_facts"

#: Name in a log -> (set, metric of ours, field of a row).
METRICS_BY_LOG_NAME: Mapping[str, tuple[str, str, str]] = {
    "forget_Q_A_Prob": (FORGET, "probability", "prob"),
    "forget_Q_A_ROUGE": (FORGET, "rouge_l", "rougeL_recall"),
    "forget_truth_ratio": (FORGET, "truth_ratio", "score"),
    "exact_memorization": (FORGET, "exact_memorization", "score"),
    "extraction_strength": (FORGET, "extraction_strength", "score"),
    "retain_Q_A_Prob": (RETAIN, "probability", "prob"),
    "retain_Q_A_ROUGE": (RETAIN, "rouge_l", "rougeL_recall"),
    "retain_Truth_Ratio": (RETAIN, "truth_ratio", "score"),
    "ra_Q_A_Prob": (REAL_AUTHORS, "probability", "prob"),
    "ra_Q_A_Prob_normalised": (REAL_AUTHORS, "probability_normalized", "prob"),
    "ra_Q_A_ROUGE": (REAL_AUTHORS, "rouge_l", "rougeL_recall"),
    "ra_Truth_Ratio": (REAL_AUTHORS, "truth_ratio", "score"),
    "wf_Q_A_Prob": (WORLD_FACTS, "probability", "prob"),
    "wf_Q_A_Prob_normalised": (WORLD_FACTS, "probability_normalized", "prob"),
    "wf_Q_A_ROUGE": (WORLD_FACTS, "rouge_l", "rougeL_recall"),
    "wf_Truth_Ratio": (WORLD_FACTS, "truth_ratio", "score"),
}
#: Name of a membership attack in a log -> score of rows of ours.
MEMBERSHIP_SCORES: Mapping[str, str] = {
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_min_k": "min_k",
    "mia_min_k_plus_plus": "min_k_plus",
    "mia_gradnorm": "gradient_norm",
}
#: Aggregates only -> where ours are.
_SUMMARIES = {"model_utility": (ALL, "model_utility"), "privleak": (FORGET, "privleak")}
_SUMMARIES["forget_quality"] = (FORGET, "forget_quality")
#: Field of ours that a log of this format may have in addition: what its rows say, as keyed digests.
ROW_DIGESTS_FIELD = "soul_rows"
#: Names in a log whose rows hold what the model was given and the answer that was expected.
_TEXTS = {name: set_name for name, (set_name, metric, _) in METRICS_BY_LOG_NAME.items() if metric == "rouge_l"}
#: What the summary numbers are made of, by name in a log.
UTILITY_METRICS: tuple[tuple[str, str], ...] = tuple(
    (name, field)
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items()
    if (set_name, metric) in METRIC_CATALOG["model_utility"].inputs
)
MIN_K_ATTACK, FORGET_TRUTH_RATIO = "mia_min_k", "forget_truth_ratio"
REQUIRED_NAMES = (*(name for name, _ in UTILITY_METRICS), FORGET_TRUTH_RATIO, MIN_K_ATTACK)


def make_tofu_log(measurements: ModelMeasurements) -> TofuLog:
    """Return the log of measurements. Raises BadData naming what a TOFU log needs and was not measured."""
    log: TofuLog = {}
    problems: list[str] = []
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items():
        try:
            log[name] = _section(measurements, set_name, metric, field)
        except BadData as error:
            problems += [error.message] * (name in REQUIRED_NAMES)
    for name, score in MEMBERSHIP_SCORES.items():
        try:
            log[name] = {part: _section(measurements, part, score, "score") for part in (FORGET, HOLDOUT)}
        except BadData as error:
            problems += [error.message] * (name in REQUIRED_NAMES)
    for name, (set_name, metric) in _SUMMARIES.items():
        value = measurements.sets.get(set_name, {}).get(metric)
        if value is not None and value.value is not None:
            log[name] = {"agg_value": value.value}
    if problems:
        raise BadData("these measurements do not make a TOFU log", details=tuple(problems))
    if measurements.digests and measurements.row_key is not None:
        digests = {
            name: {str(row - 1): digest for row, digest in zip(measurements.rows[name], of_set, strict=True)}
            for name, of_set in measurements.digests.items()
        }
        log[ROW_DIGESTS_FIELD] = {"key": measurements.row_key.model_dump(), "digest_by_index": digests}
    return log


def parse_tofu_log(log: TofuLog) -> ModelMeasurements:
    """Return the measurements in a log, as many as there are, with the intervals a spec's defaults ask for."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items():
        if name in log:
            found.setdefault(set_name, {})[metric] = read_log_rows(log[name], field, name)
    for name, score in MEMBERSHIP_SCORES.items():
        for part in (FORGET, HOLDOUT):
            if name in log and part in log[name]:
                found.setdefault(part, {})[score] = read_log_rows(log[name][part], "score", name)
    numbers = {
        of: sorted({row for read_log_values in metrics.values() for row in read_log_values})
        for of, metrics in found.items()
    }
    settings = Evaluation()
    resampling = Resampling(settings.bootstrap, settings.confidence, 0)
    sets = {
        of: {
            metric: summarize(
                [read_log_values.get(row) for row in numbers[of]],
                resampling,
                aggregate=METRIC_CATALOG[metric].get_aggregate(of),
            )
            for metric, read_log_values in metrics.items()
        }
        for of, metrics in found.items()
    }
    rows = {of: tuple(rows) for of, rows in numbers.items()}
    return ModelMeasurements(sets=sets, rows=rows, **_digests_in(log, rows))


def read_log_texts(log: TofuLog) -> dict[str, dict[int, tuple[str, str]]]:
    """Return set -> row number -> what the model was given and what it should have answered, where the log says so."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for name, set_name in _TEXTS.items():
        section = log.get(name)
        by_index = section.get("value_by_index") if isinstance(section, dict) else None
        for index, value in by_index.items() if isinstance(by_index, dict) else ():
            texts = (value.get("input"), value.get("ground_truth")) if isinstance(value, dict) else ()
            if str(index).isdigit() and len(texts) == 2 and all(isinstance(text, str) for text in texts):
                found.setdefault(set_name, {})[int(index) + 1] = (str(texts[0]), str(texts[1]))
    return found


def _digests_in(log: TofuLog, rows: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what `to_log` wrote of the rows; a set of which it lacks a row has none."""
    if ROW_DIGESTS_FIELD not in log:
        return {}
    try:
        by_index = log[ROW_DIGESTS_FIELD]["digest_by_index"]
        digests = {
            name: tuple(str(by_index[name][str(row - 1)]) for row in numbers)
            for name, numbers in rows.items()
            if all(str(row - 1) in by_index.get(name, {}) for row in numbers)
        }
        return {"digests": digests, "row_key": RowDigestKey.model_validate(log[ROW_DIGESTS_FIELD]["key"])}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadData(f"the log's {ROW_DIGESTS_FIELD} does not have the form in which it was written") from error


def read_log_rows(section: Any, field: str, name: str) -> dict[int, float]:
    """Return row number -> value of a part of a log, in the rows' order. Raises BadData."""
    try:
        by_index = section["value_by_index"]
        return {int(index) + 1: float(by_index[index][field]) for index in sorted(by_index, key=int)}
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"the log's {name} has no per-example '{field}'") from error


def read_log_values(log: TofuLog, name: str, field: str) -> Floats:
    """Return a metric's value of every row, in the order of the rows' indices. Raises BadData."""
    return np.array(list(read_log_rows(log.get(name), field, name).values()), dtype=np.float64)


def _section(measured: ModelMeasurements, set_name: str, metric: str, field: str) -> dict[str, Any]:
    value = measured.sets.get(set_name, {}).get(metric)
    if value is None:
        raise BadData(f"{metric} was not measured on a set named {set_name}")
    if value.value is None or value.per_example is None:
        raise BadData(f"no {metric} of the {set_name} set: {value.absent_reason or 'it has no values of single rows'}")
    numbers = measured.rows.get(set_name) or range(1, len(value.per_example) + 1)
    rows = {
        str(row - 1): dict(_fields(field, one))
        for row, one in zip(numbers, value.per_example, strict=True)
        if one is not None
    }
    return {"agg_value": value.value, "value_by_index": rows}


def _fields(field: str, value: float) -> Iterator[tuple[str, float]]:
    yield field, value
    if field == "prob" and value > 0:
        yield "avg_loss", -math.log(value)
