"""A reference's log put in the order of this run's rows: rows are found by what they say, not by where they stand.

By keyed digests where the log has them, else by the questions and answers it holds (TOFU's logs hold some), else by
position, which is said. Other rows are refused: two measurements of different rows are never compared.
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
from soul_core.texts import fold

#: So many rows in common are enough for an interval; with fewer, at least half of the measured ones must be.
_ENOUGH_ROWS = 30
_REMEDY = (
    "compare with the retrained model itself (reference as a model, --compare retrained=MODEL), or measure it on these "
    "rows and give that log"
)


@dataclass(frozen=True)
class _Pair:
    """Where a row of this run stands in the log. `same_answers`: its paraphrased and wrong answers are the same too."""

    row: int
    place: int
    same_answers: bool = True


def match_log(
    log: RetrainedLog,
    sets: Sequence[EvaluationSet],
    *,
    last_rows: Mapping[str, int],
    key: DigestKey,
    resampling: Resampling,
) -> tuple[ModelMeasurements, dict[str, RowMatch]]:
    """Return the log's measurements on the rows that are measured here, in their order, and how each set was matched.

    `last_rows`: the number of the last row of each data set that the user gave. Of those the log must hold at least
    half of the measured rows, or 30. Sets that are not measured here stay as they are: nothing is compared with them.
    Raises BadData for a log of other rows.
    """
    measured = log.measurements
    aligned: dict[str, SetMetrics] = {}
    rows = dict(measured.rows)
    digests: dict[str, tuple[str, ...]] = {}
    matches = {}
    for one in sets:
        num_in_log = len(_numbers(measured, one.name))
        if not num_in_log:
            continue
        by, pairs = _pairs(log, one, key, last_rows.get(one.name))
        if not _enough(len(pairs), len(one.rows)):
            if one.name in last_rows:
                raise _other_rows(one, pairs, num_in_log)
            rows.pop(one.name, None)  # probes are made here, of rows that the log may have had in another order
            aligned[one.name] = _nothing_in_common(measured.sets[one.name])
        else:
            rows[one.name] = tuple(pair.row for pair in pairs)
            aligned[one.name] = _aligned(measured, one.name, pairs, num_in_log, resampling)
            if by != "position":
                numbered = {row.number: row for row in one.rows}
                digests[one.name] = tuple(key.digest(numbered[pair.row]) for pair in pairs)
        matches[one.name] = RowMatch(
            by=by,
            num_common=len(pairs),
            num_rows=len(one.rows),
            num_in_log=num_in_log,
            num_other_answers=sum(not pair.same_answers for pair in pairs),
        )
    untouched = {name: metrics for name, metrics in measured.sets.items() if name not in aligned}
    found = ModelMeasurements(sets=aligned | untouched, rows=rows, digests=digests, row_key=key.facts)
    return found, matches


def collect_match_warnings(source: str, matches: Mapping[str, RowMatch]) -> Iterator[str]:
    """Yield one sentence for each set on which the log says less than a measurement of the same rows would."""
    for name, match in matches.items():
        of = f"the {name} set"
        if match.by == "position":
            yield (
                f"The log {source} holds neither digests nor texts of the rows of {of}: it was matched by row numbers, "
                "and nothing shows that those are the same rows."
            )
        if match.num_common == 0:
            yield f"The log {source} was taken on other rows of {of}: on these the reference is not compared."
        elif match.num_common < match.num_rows:
            yield (
                f"Of the {match.num_rows} rows of {of} that were measured, {match.num_common} are in the log {source}: "
                "the reference is compared on those alone."
            )
        if match.num_other_answers:
            yield (
                f"{match.num_other_answers} rows of {of} have other paraphrased or wrong answers in the log {source}: "
                "metrics made of those leave them out."
            )


def _pairs(
    log: RetrainedLog, one: EvaluationSet, key: DigestKey, last_row: int | None
) -> tuple[Literal["content", "texts", "position"], list[_Pair]]:
    digests = log.measurements.digests.get(one.name)
    if digests:
        known = find_log_key(log.measurements.row_key, key)
        if known is None:
            raise BadData(
                f"the rows of the log's {one.name} set cannot be told: their digests were made under a key that is not "
                f"known here; {_REMEDY}"
            )
        return "content", list(_by_digest(digests, one.rows, known))
    if texts := log.texts.get(one.name):
        numbers = _numbers(log.measurements, one.name)
        return "texts", list(_by_texts({i: texts[row] for i, row in enumerate(numbers) if row in texts}, one.rows))
    return "position", list(_by_position(log.measurements, one, last_row))


def _by_digest(digests: Sequence[str], rows: Iterable[Row], key: DigestKey) -> Iterator[_Pair]:
    """Pair equal rows in their order: the second of two copies with the second."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[split_digest(digest)[0]].append(place)
    for row in rows:
        content, others = split_digest(key.digest(row))
        if places[content]:
            place = places[content].pop(0)
            yield _Pair(row.number, place, same_answers=split_digest(digests[place])[1] == others)


def _by_texts(texts: Mapping[int, tuple[str, str]], rows: Iterable[Row]) -> Iterator[_Pair]:
    """Pair by answer, and by the question, which stands inside what the model was given."""
    waiting = {place: (_plain(given), _plain(answer)) for place, (given, answer) in texts.items()}
    by_answer: defaultdict[str, list[int]] = defaultdict(list)
    for place, (_, answer) in waiting.items():
        by_answer[answer].append(place)
    for row in rows:
        question = _plain(row.messages[-1].content if row.messages else format_prompt(row))
        places = by_answer[_plain(row.completion)]
        for place in places:
            if question in waiting[place][0]:
                places.remove(place)
                yield _Pair(row.number, place)
                break


def _by_position(measured: ModelMeasurements, one: EvaluationSet, last_row: int | None) -> Iterator[_Pair]:
    numbers = _numbers(measured, one.name)
    every_row = tuple(numbers) == tuple(range(1, len(numbers) + 1))
    if last_row is not None and (max(numbers) > last_row or (every_row and len(numbers) != last_row)):
        raise BadData(
            f"the log is of another {one.name} set: it has {len(numbers)} rows, the last of them row {max(numbers)}, "
            f"and this set ends with row {last_row}; {_REMEDY}"
        )
    places = {row: place for place, row in enumerate(numbers)}
    yield from (_Pair(row.number, places[row.number]) for row in one.rows if row.number in places)


def _enough(num_common: int, num_rows: int) -> bool:
    return num_common >= _ENOUGH_ROWS or (num_common > 0 and 2 * num_common >= num_rows)


def _other_rows(one: EvaluationSet, pairs: Sequence[_Pair], num_in_log: int) -> BadData:
    found = {pair.row for pair in pairs}
    lacking = [row.number for row in one.rows if row.number not in found]
    return BadData(
        f"the log was taken on other rows: of the {len(one.rows)} rows of the {one.name} set that are measured here it "
        f"has {len(pairs)} (it has {num_in_log} rows); {_REMEDY}",
        details=(f"rows of the {one.name} set that are not in the log: {format_row_numbers(lacking)}",),
    )


def _aligned(
    measured: ModelMeasurements, name: str, pairs: Sequence[_Pair], num_in_log: int, resampling: Resampling
) -> SetMetrics:
    """Return a set's metrics on the paired rows. Metrics made of several models or sets are made anew by the caller."""
    whole = len(pairs) == num_in_log and all(pair.same_answers for pair in pairs)
    return {
        metric: _on_rows(metric, name, value, pairs, resampling, whole=whole)
        for metric, value in measured.sets[name].items()
        if metric not in METRIC_CATALOG or METRIC_CATALOG[metric].scope == "row"
    }


def _on_rows(
    metric: str, name: str, value: MetricValue, pairs: Sequence[_Pair], resampling: Resampling, *, whole: bool
) -> MetricValue:
    if value.per_example is None:
        return value
    entry = METRIC_CATALOG.get(metric)
    reads_others = entry is not None and "perturbed" in entry.needs
    kept = [None if reads_others and not pair.same_answers else value.per_example[pair.place] for pair in pairs]
    weights = None if value.weights is None else [value.weights[pair.place] for pair in pairs]
    if whole:  # the same rows in another order: the same value
        return value.model_copy(update={"per_example": tuple(kept), "weights": weights and tuple(weights)})
    return summarize(kept, resampling, weights=weights, aggregate=entry.get_aggregate(name) if entry else "mean")


def _nothing_in_common(metrics: SetMetrics) -> SetMetrics:
    return dict.fromkeys(metrics, make_absent_value("the reference's log was taken on other rows of this set"))


def _numbers(measured: ModelMeasurements, name: str) -> Sequence[int]:
    """Return the log's row numbers of a set; a log without them counts from 1."""
    if numbers := measured.rows.get(name):
        return numbers
    metrics = measured.sets.get(name, {}).values()
    lengths = [len(value.per_example) for value in metrics if value.per_example is not None]
    return range(1, max(lengths, default=0) + 1)


def _plain(text: str) -> str:
    return " ".join(fold(text).split())
