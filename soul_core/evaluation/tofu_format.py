"""Converts between TOFU's log format and our measurements. Index i of a log is row i + 1 of the data set.

A log is JSON (`*_EVAL.json`, plain or gzip): metric -> {agg_value, value_by_index}; a membership attack has such an
object for each of its two sets.
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

#: Name in a log -> (our set, our metric, field of a row).
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
#: Name of a membership attack in a log -> our score of rows.
MEMBERSHIP_SCORES: Mapping[str, str] = {
    "mia_loss": "loss",
    "mia_zlib": "zlib",
    "mia_min_k": "min_k",
    "mia_min_k_plus_plus": "min_k_plus",
    "mia_gradnorm": "gradient_norm",
}
#: Name in a log that has an aggregate only -> (our set, our metric).
_SUMMARIES = {"model_utility": (ALL, "model_utility"), "privleak": (FORGET, "privleak")}
_SUMMARIES["forget_quality"] = (FORGET, "forget_quality")
#: Our own field in a log: keyed digests of the contents of its rows.
ROW_DIGESTS_FIELD = "soul_rows"
#: Name in a log whose rows hold the model's input and the expected answer -> our set.
_TEXTS = {name: set_name for name, (set_name, metric, _) in METRICS_BY_LOG_NAME.items() if metric == "rouge_l"}
#: (Name in a log, field of a row) of the inputs of model utility.
UTILITY_METRICS: tuple[tuple[str, str], ...] = tuple(
    (name, field)
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items()
    if (set_name, metric) in METRIC_CATALOG["model_utility"].inputs
)
MIN_K_ATTACK, FORGET_TRUTH_RATIO = "mia_min_k", "forget_truth_ratio"
REQUIRED_NAMES = (*(name for name, _ in UTILITY_METRICS), FORGET_TRUTH_RATIO, MIN_K_ATTACK)


def make_tofu_log(measurements: ModelMeasurements) -> TofuLog:
    """Return the log of measurements. Raises BadData, naming what a TOFU log requires and was not measured."""
    log: TofuLog = {}
    problems: list[str] = []
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items():
        try:
            log[name] = _make_section(measurements, set_name, metric, field)
        except BadData as error:
            problems += [error.message] * (name in REQUIRED_NAMES)
    for name, score in MEMBERSHIP_SCORES.items():
        try:
            log[name] = {part: _make_section(measurements, part, score, "score") for part in (FORGET, HOLDOUT)}
        except BadData as error:
            problems += [error.message] * (name in REQUIRED_NAMES)
    for name, (set_name, metric) in _SUMMARIES.items():
        value = measurements.sets.get(set_name, {}).get(metric)
        if value is not None and value.value is not None:
            log[name] = {"agg_value": value.value}
    if problems:
        raise BadData("these measurements lack what a TOFU log requires", details=tuple(problems))
    if measurements.digests and measurements.row_key is not None:
        digests = {
            name: {str(row - 1): digest for row, digest in zip(measurements.rows[name], of_set, strict=True)}
            for name, of_set in measurements.digests.items()
        }
        log[ROW_DIGESTS_FIELD] = {"key": measurements.row_key.model_dump(), "digest_by_index": digests}
    return log


def parse_tofu_log(log: TofuLog) -> ModelMeasurements:
    """Return the measurements in a log, with intervals by the default settings of a spec."""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for name, (set_name, metric, field) in METRICS_BY_LOG_NAME.items():
        if name in log:
            values.setdefault(set_name, {})[metric] = read_log_rows(log[name], field, name)
    for name, score in MEMBERSHIP_SCORES.items():
        for set_name in (FORGET, HOLDOUT):
            if name in log and set_name in log[name]:
                values.setdefault(set_name, {})[score] = read_log_rows(log[name][set_name], "score", name)
    rows = {
        set_name: tuple(sorted({row for values_by_row in metrics.values() for row in values_by_row}))
        for set_name, metrics in values.items()
    }
    settings = Evaluation()
    resampling = Resampling(settings.bootstrap, settings.confidence, 0)
    sets = {
        set_name: {
            metric: summarize(
                [values_by_row.get(row) for row in rows[set_name]],
                resampling,
                aggregate=METRIC_CATALOG[metric].get_aggregate(set_name),
            )
            for metric, values_by_row in metrics.items()
        }
        for set_name, metrics in values.items()
    }
    return ModelMeasurements(sets=sets, rows=rows, **_parse_digests(log, rows))


def read_log_texts(log: TofuLog) -> dict[str, dict[int, tuple[str, str]]]:
    """Return set -> row number -> (the model's input, the expected answer), of the rows that have both."""
    texts_by_set: dict[str, dict[int, tuple[str, str]]] = {}
    for name, set_name in _TEXTS.items():
        section = log.get(name)
        by_index = section.get("value_by_index") if isinstance(section, dict) else None
        for index, value in by_index.items() if isinstance(by_index, dict) else ():
            texts = (value.get("input"), value.get("ground_truth")) if isinstance(value, dict) else ()
            if str(index).isdigit() and len(texts) == 2 and all(isinstance(text, str) for text in texts):
                texts_by_set.setdefault(set_name, {})[int(index) + 1] = (str(texts[0]), str(texts[1]))
    return texts_by_set


def _parse_digests(log: TofuLog, rows: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the digests and their key that `make_tofu_log` wrote; a set that lacks a row has none."""
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
        raise BadData(f"the log's field {ROW_DIGESTS_FIELD} is damaged") from error


def read_log_rows(section: Any, field: str, name: str) -> dict[int, float]:
    """Return row number -> value of a section of a log, in the rows' order. Raises BadData."""
    try:
        by_index = section["value_by_index"]
        return {int(index) + 1: float(by_index[index][field]) for index in sorted(by_index, key=int)}
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"the log's {name} has no value '{field}' of each row") from error


def read_log_values(log: TofuLog, name: str, field: str) -> Floats:
    """Return a metric's value of every row, in the order of the rows' indices. Raises BadData."""
    return np.array(list(read_log_rows(log.get(name), field, name).values()), dtype=np.float64)


def _make_section(measurements: ModelMeasurements, set_name: str, metric: str, field: str) -> dict[str, Any]:
    value = measurements.sets.get(set_name, {}).get(metric)
    if value is None:
        raise BadData(f"{metric} was not measured on a set named {set_name}")
    if value.value is None or value.per_example is None:
        raise BadData(f"no {metric} of the {set_name} set: {value.absent_reason or 'it has no values of single rows'}")
    numbers = measurements.rows.get(set_name) or range(1, len(value.per_example) + 1)
    rows = {
        str(row - 1): dict(_make_fields(field, row_value))
        for row, row_value in zip(numbers, value.per_example, strict=True)
        if row_value is not None
    }
    return {"agg_value": value.value, "value_by_index": rows}


def _make_fields(field: str, value: float) -> Iterator[tuple[str, float]]:
    yield field, value
    if field == "prob" and value > 0:
        yield "avg_loss", -math.log(value)
