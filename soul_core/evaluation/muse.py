"""MUSE's six scores of unlearning, computed from one report or several. A pure function of reports.

Source: MUSE (arXiv:2407.06460), section 3: verbatim and knowledge memorization, privacy leakage, utility; and how much
utility remains when the forget set grows (scalability) or when one request follows another (sustainability).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from soul_core.report import Interval, MetricValue, Report
from soul_core.spec import FORGET, JUDGED_MODEL, RETAIN

_VERBATIM, _KNOWLEDGE = "verbatim_memorization", "knowledge_memorization"


@dataclass(frozen=True)
class UtilityPoint:
    """The utility of one report of a series."""

    num_forget_rows: int
    utility: float


@dataclass(frozen=True)
class MuseScore:
    """One of the six scores."""

    name: str
    meaning: str
    value: float | None
    interval: Interval | None = None
    absent_reason: str | None = None
    points: tuple[UtilityPoint, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compute_muse_scores(reports: Sequence[Report]) -> tuple[MuseScore, ...]:
    """Return the six scores; the first four are those of the last report.

    Sets named `forget_...` and `retain_...` count as parts of forget and retain: texts and questions may be in separate
    sets. Several reports on one model are a series of growing forget sets; on different models, successive requests.
    """
    last = reports[-1]
    same_model = len({report.model.digest for report in reports}) == 1
    growing = sorted(reports, key=_count_forget_rows) if same_model else ()
    successive = reports if len({report.model.digest for report in reports}) == len(reports) else ()
    return (
        _make_score("verbatim", "ROUGE-L F1 of continued forget texts; low is good", last, FORGET, _VERBATIM),
        _make_score("knowledge", "ROUGE-L F1 of answered forget questions; low is good", last, FORGET, _KNOWLEDGE),
        _make_score("privacy", "PrivLeak in percent; 0 is like the retrained model", last, FORGET, "privleak"),
        _make_score("utility", "ROUGE-L F1 of answered retain questions; high is good", last, RETAIN, _KNOWLEDGE),
        _make_series_score(
            "scalability",
            "utility with the largest forget set / with the smallest; 1 is best",
            growing,
            "it needs reports on one model with forget sets of different sizes",
            enough=lambda points: len({point.num_forget_rows for point in points}) > 1,
        ),
        _make_series_score(
            "sustainability",
            "utility after the last request / after the first; 1 is best",
            successive,
            "it needs reports of successive requests, each on the model of the one before",
            enough=lambda points: len(points) > 1,
        ),
    )


def _make_score(name: str, meaning: str, report: Report, part: str, metric: str) -> MuseScore:
    value = _get_value(report, part, metric)
    return MuseScore(name, meaning, value.value, value.interval, value.absent_reason)


def _make_series_score(
    name: str, meaning: str, reports: Sequence[Report], needed: str, *, enough: Callable[[Sequence[UtilityPoint]], bool]
) -> MuseScore:
    values = [_get_value(report, RETAIN, _KNOWLEDGE) for report in reports]
    points = tuple(
        UtilityPoint(_count_forget_rows(report), value.value)
        for report, value in zip(reports, values, strict=True)
        if value.value is not None
    )
    if not enough([UtilityPoint(_count_forget_rows(report), 0.0) for report in reports]):
        return MuseScore(name, meaning, None, absent_reason=needed)
    if len(points) < len(reports):
        reason = next(value.absent_reason for value in values if value.value is None)
        return MuseScore(name, meaning, None, absent_reason=f"a report has no utility: {reason}", points=points)
    if points[0].utility == 0:
        return MuseScore(name, meaning, None, absent_reason="the first report's utility is 0", points=points)
    return MuseScore(name, meaning, points[-1].utility / points[0].utility, points=points)


def _get_value(report: Report, part: str, metric: str) -> MetricValue:
    """Return the metric of the judged model on the first set of a part that has it; absent if none has."""
    model = report.models[JUDGED_MODEL[report.spec.kind]]
    sets = {name: metrics for name, metrics in model.sets.items() if name == part or name.startswith(f"{part}_")}
    if not sets:
        return MetricValue(value=None, absent_reason=f"no {part} set was given")
    values = [metrics[metric] for metrics in sets.values() if metric in metrics]
    if not values:
        return MetricValue(value=None, absent_reason=f"{metric} is not among the metrics of the spec")
    return next((value for value in values if value.value is not None), values[0])


def _count_forget_rows(report: Report) -> int:
    return sum(facts.num_rows for facts in report.data if facts.name == FORGET)
