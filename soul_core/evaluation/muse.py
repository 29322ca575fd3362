"""MUSE's six ways of looking at unlearning, read off one report or several. A pure function of reports.

Source: MUSE (arXiv:2407.06460), section 3: verbatim and knowledge memorization, privacy leakage, utility; and how
utility holds when the forget set grows (scalability) or when one request follows another (sustainability).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from soul_core.report import Interval, MetricValue, Report
from soul_core.spec import FORGET, JUDGED_MODEL, RETAIN

_KNOWLEDGE = "knowledge_memorization"


@dataclass(frozen=True)
class UtilityPoint:
    """The utility of one report of a series."""

    num_forget_rows: int
    utility: float


@dataclass(frozen=True)
class MuseScore:
    """One of the six."""

    name: str
    meaning: str
    value: float | None
    interval: Interval | None = None
    absent_reason: str | None = None
    points: tuple[UtilityPoint, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compute_muse_scores(reports: Sequence[Report]) -> tuple[MuseScore, ...]:
    """Return the six, the first four of the last report. Sets named `forget_...` and `retain_...` count as parts of
    forget and retain: texts and questions may lie in sets of their own.

    Several reports on one model are a series of growing forget sets; on different models, one request after another.
    """
    last = reports[-1]
    same_model = len({report.model.digest for report in reports}) == 1
    growing = sorted(reports, key=_num_forget_rows) if same_model else ()
    successive = reports if len({report.model.digest for report in reports}) == len(reports) else ()
    return (
        _way("verbatim", "ROUGE-L F1 of continued forget texts; low is good", last, FORGET, "verbatim_memorization"),
        _way("knowledge", "ROUGE-L F1 of answered forget questions; low is good", last, FORGET, _KNOWLEDGE),
        _way("privacy", "PrivLeak in percent; 0 is like the retrained model", last, FORGET, "privleak"),
        _way("utility", "ROUGE-L F1 of answered retain questions; high is good", last, RETAIN, _KNOWLEDGE),
        _series(
            "scalability",
            "utility with the largest forget set / with the smallest; 1 is best",
            growing,
            "it needs reports on one model with forget sets of different sizes",
            enough=lambda points: len({point.num_forget_rows for point in points}) > 1,
        ),
        _series(
            "sustainability",
            "utility after the last request / after the first; 1 is best",
            successive,
            "it needs reports of one request after another, each on the model the one before made",
            enough=lambda points: len(points) > 1,
        ),
    )


def _way(name: str, meaning: str, report: Report, part: str, metric: str) -> MuseScore:
    value = _find(report, part, metric)
    return MuseScore(name, meaning, value.value, value.interval, value.absent_reason)


def _series(
    name: str, meaning: str, reports: Sequence[Report], needed: str, *, enough: Callable[[Sequence[UtilityPoint]], bool]
) -> MuseScore:
    found = [(report, _find(report, RETAIN, _KNOWLEDGE)) for report in reports]
    points = tuple(UtilityPoint(_num_forget_rows(report), one.value) for report, one in found if one.value is not None)
    if not enough([UtilityPoint(_num_forget_rows(report), 0.0) for report in reports]):
        return MuseScore(name, meaning, None, absent_reason=needed)
    if len(points) < len(reports):
        reason = next(one.absent_reason for _, one in found if one.value is None)
        return MuseScore(name, meaning, None, absent_reason=f"a report has no utility: {reason}", points=points)
    if points[0].utility == 0:
        return MuseScore(name, meaning, None, absent_reason="the first report's utility is 0 already", points=points)
    return MuseScore(name, meaning, points[-1].utility / points[0].utility, points=points)


def _find(report: Report, part: str, metric: str) -> MetricValue:
    """Return the metric of the judged model on the first set of a part that has it."""
    model = report.models[JUDGED_MODEL[report.spec.kind]]
    sets = {name: metrics for name, metrics in model.sets.items() if name == part or name.startswith(f"{part}_")}
    if not sets:
        return MetricValue(value=None, absent_reason=f"no {part} set was given")
    found = [metrics[metric] for metrics in sets.values() if metric in metrics]
    if not found:
        return MetricValue(value=None, absent_reason=f"the spec did not ask for {metric}")
    return next((one for one in found if one.value is not None), found[0])


def _num_forget_rows(report: Report) -> int:
    return sum(facts.num_rows for facts in report.data if facts.name == FORGET)
