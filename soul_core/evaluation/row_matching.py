"""Matches the rows of a retrained model's log with the rows of this run, by content and not by position.

By keyed digests if the log has them, else by the questions and answers in it (TOFU's logs have some), else by position,
with a warning. A log of other rows is refused: measurements of different rows are never compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from soul_core.catalogue import METRIC_CATALOG
from soul_core.data import Row
from soul_core.errors import BadData
from soul_core.evaluation.row_digests import DigestKey, find_log_key, split_digest
from soul_core.evaluation.row_selection import EvaluationSet, format_prompt
from soul_core.evaluation.tofu_logs import RetrainedLog
from soul_core.formatting import format_row_numbers
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.report import MetricValue, ModelMeasurements, RowMatch, SetMetrics
from soul_core.texts import fold_to_line

#: Common rows that are enough for an interval; of fewer, at least half of the measured rows must be common.
_MIN_COMMON_ROWS = 30
_REMEDY = (
    "compare with the retrained model itself (--compare retrained=MODEL), or measure it on these rows and give that log"
)


@dataclass(frozen=True)
class _RowPair:
    """A row of this run and its index in the log."""

    row: int
    index: int
    has_same_alternatives: bool = True
    """Whether its paraphrased and wrong answers are the same too."""


def match_log(
    log: RetrainedLog,
    sets: Sequence[EvaluationSet],
    *,
    last_rows: Mapping[str, int],
    key: DigestKey,
    resampling: Resampling,
) -> tuple[ModelMeasurements, dict[str, RowMatch]]:
    """Return the log's measurements on the rows that are measured here, in their order, and how each set was matched.

    Sets that are not measured here stay as they are: nothing is compared with them.

    Args:
        last_rows: Number of the last row of each data set that the user gave. The log must have at least half of the
            measured rows of these sets, or 30.

    Raises:
        BadData: The log is of other rows.
    """
    measured = log.measurements
    aligned: dict[str, SetMetrics] = {}
    rows = dict(measured.rows)
    digests: dict[str, tuple[str, ...]] = {}
    matches = {}
    for evaluation_set in sets:
        name, num_rows = evaluation_set.name, len(evaluation_set.rows)
        num_in_log = len(_get_row_numbers(measured, name))
        if not num_in_log:
            continue
        by, pairs = _pair_rows(log, evaluation_set, key, last_rows.get(name))
        if len(pairs) >= _MIN_COMMON_ROWS or 0 < num_rows <= 2 * len(pairs):
            rows[name] = tuple(pair.row for pair in pairs)
            aligned[name] = _align_metrics(measured, name, pairs, num_in_log, resampling)
            if by != "position":
                rows_by_number = {row.number: row for row in evaluation_set.rows}
                digests[name] = tuple(key.digest(rows_by_number[pair.row]) for pair in pairs)
        elif name in last_rows:
            raise _make_other_rows_error(evaluation_set, pairs, num_in_log)
        else:  # probes are made here, from rows that may be in another order in the log
            rows.pop(name, None)
            reason = "the retrained model's log was measured on other rows of this set"
            aligned[name] = dict.fromkeys(measured.sets[name], make_absent_value(reason))
        matches[name] = RowMatch(
            by=by,
            num_common=len(pairs),
            num_rows=num_rows,
            num_in_log=num_in_log,
            num_other_answers=sum(not pair.has_same_alternatives for pair in pairs),
        )
    others = {name: metrics for name, metrics in measured.sets.items() if name not in aligned}
    return ModelMeasurements(sets=aligned | others, rows=rows, digests=digests, row_key=key.facts), matches


def map_row_numbers(
    log: RetrainedLog, evaluation_set: EvaluationSet, key: DigestKey, last_row: int | None
) -> dict[int, int]:
    """Return row number in the log -> number of the same row here, for one set that `match_log` has accepted."""
    numbers = _get_row_numbers(log.measurements, evaluation_set.name)
    if not numbers:
        return {}
    _, pairs = _pair_rows(log, evaluation_set, key, last_row)
    return {numbers[pair.index]: pair.row for pair in pairs}


def collect_match_warnings(source: str, matches: Mapping[str, RowMatch]) -> Iterator[str]:
    """Yield one sentence for each set on which the log shows less than a measurement of the same rows would."""
    for name, match in matches.items():
        if match.by == "position":
            yield (
                f"The log {source} has neither digests nor texts of the rows of the {name} set: it was matched by row "
                "numbers, and nothing proves that those are the same rows."
            )
        if match.num_common == 0:
            yield (
                f"The log {source} was measured on other rows of the {name} set: the retrained model is not "
                "compared on this set."
            )
        elif match.num_common < match.num_rows:
            yield (
                f"Of the {match.num_rows} measured rows of the {name} set, {match.num_common} are in the log {source}: "
                "the retrained model is compared on those only."
            )
        if match.num_other_answers:
            yield (
                f"{match.num_other_answers} rows of the {name} set have other paraphrased or wrong answers in the log "
                f"{source}: metrics that read these leave the rows out."
            )


def _pair_rows(
    log: RetrainedLog, evaluation_set: EvaluationSet, key: DigestKey, last_row: int | None
) -> tuple[Literal["content", "texts", "position"], list[_RowPair]]:
    name, rows = evaluation_set.name, evaluation_set.rows
    digests = log.measurements.digests.get(name)
    if digests:
        log_key = find_log_key(log.measurements.row_key, key)
        if log_key is None:
            raise BadData(
                f"the rows of the log's {name} set cannot be identified: their digests have a key that is not known "
                f"here; {_REMEDY}"
            )
        return "content", list(_pair_by_digest(digests, rows, log_key))
    numbers = _get_row_numbers(log.measurements, name)
    if texts := log.texts.get(name):
        return "texts", list(_pair_by_texts({i: texts[row] for i, row in enumerate(numbers) if row in texts}, rows))
    _check_positions(numbers, name, last_row)
    indices = {row: index for index, row in enumerate(numbers)}
    return "position", [_RowPair(row.number, indices[row.number]) for row in rows if row.number in indices]


def _pair_by_digest(digests: Sequence[str], rows: Iterable[Row], key: DigestKey) -> Iterator[_RowPair]:
    """Pair equal rows in their order: the second of two copies with the second."""
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        indices[split_digest(digest)[0]].append(index)
    for row in rows:
        content, alternatives = split_digest(key.digest(row))
        if indices[content]:
            index = indices[content].pop(0)
            has_same_alternatives = split_digest(digests[index])[1] == alternatives
            yield _RowPair(row.number, index, has_same_alternatives=has_same_alternatives)


def _pair_by_texts(texts: Mapping[int, tuple[str, str]], rows: Iterable[Row]) -> Iterator[_RowPair]:
    """Pair by answer and by question; the question is a part of the model's input in the log."""
    unpaired = {index: (fold_to_line(prompt), fold_to_line(answer)) for index, (prompt, answer) in texts.items()}
    by_answer: defaultdict[str, list[int]] = defaultdict(list)
    for index, (_, answer) in unpaired.items():
        by_answer[answer].append(index)
    for row in rows:
        question = fold_to_line(row.messages[-1].content if row.messages else format_prompt(row))
        candidates = by_answer[fold_to_line(row.completion)]
        for index in candidates:
            if question in unpaired[index][0]:
                candidates.remove(index)
                yield _RowPair(row.number, index)
                break


def _check_positions(numbers: Sequence[int], name: str, last_row: int | None) -> None:
    """Raise BadData if the row numbers of the log cannot be those of this set."""
    has_every_row = tuple(numbers) == tuple(range(1, len(numbers) + 1))
    if last_row is not None and (max(numbers) > last_row or (has_every_row and len(numbers) != last_row)):
        raise BadData(
            f"the log is of another {name} set: it has {len(numbers)} rows, the last of them row {max(numbers)}, "
            f"and this set ends with row {last_row}; {_REMEDY}"
        )


def _make_other_rows_error(evaluation_set: EvaluationSet, pairs: Sequence[_RowPair], num_in_log: int) -> BadData:
    paired = {pair.row for pair in pairs}
    missing = [row.number for row in evaluation_set.rows if row.number not in paired]
    return BadData(
        f"the log is of other rows: it has {len(pairs)} of the {len(evaluation_set.rows)} rows of the "
        f"{evaluation_set.name} set that are measured here (it has {num_in_log} rows); {_REMEDY}",
        details=(f"rows of the {evaluation_set.name} set that are not in the log: {format_row_numbers(missing)}",),
    )


def _align_metrics(
    measured: ModelMeasurements, name: str, pairs: Sequence[_RowPair], num_in_log: int, resampling: Resampling
) -> SetMetrics:
    """Return a set's row metrics on the paired rows. The caller computes derived metrics again."""
    is_complete = len(pairs) == num_in_log and all(pair.has_same_alternatives for pair in pairs)
    return {
        metric: _align_value(metric, name, value, pairs, resampling, is_complete=is_complete)
        for metric, value in measured.sets[name].items()
        if metric not in METRIC_CATALOG or METRIC_CATALOG[metric].scope == "row"
    }


def _align_value(
    metric: str,
    name: str,
    value: MetricValue,
    pairs: Sequence[_RowPair],
    resampling: Resampling,
    *,
    is_complete: bool,
) -> MetricValue:
    if value.per_example is None:
        return value
    entry = METRIC_CATALOG.get(metric)
    reads_alternatives = entry is not None and "perturbed" in entry.needs
    values = [
        None if reads_alternatives and not pair.has_same_alternatives else value.per_example[pair.index]
        for pair in pairs
    ]
    weights = None if value.weights is None else [value.weights[pair.index] for pair in pairs]
    if is_complete:  # the same rows in another order: the same value
        return value.model_copy(update={"per_example": tuple(values), "weights": weights and tuple(weights)})
    return summarize(values, resampling, weights=weights, aggregate=entry.get_aggregate(name) if entry else "mean")


def _get_row_numbers(measured: ModelMeasurements, name: str) -> Sequence[int]:
    """Return the log's row numbers of a set; a log without them counts from 1."""
    if numbers := measured.rows.get(name):
        return numbers
    metrics = measured.sets.get(name, {}).values()
    lengths = [len(value.per_example) for value in metrics if value.per_example is not None]
    return range(1, max(lengths, default=0) + 1)
