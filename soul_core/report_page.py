"""report.html: one file that works offline, made from a Report and nothing else. Torch-free.

A model's answers are hostile text: all is escaped, control characters are replaced, and the page forbids scripts.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from soul_core.metric_catalogue import CATALOGUE, number
from soul_core.report import MetricValue, Report, SideBySide, Verdict
from soul_core.report_charts import LineChart, bar_charts, line_chart
from soul_core.spec import Criterion

HEADLINES: dict[Verdict, str] = {
    "passed": "Passed: every criterion of this job holds",
    "failed": "Failed: at least one criterion of this job is broken",
    "inconclusive": "Inconclusive: the measurements do not decide every criterion",
}
_SYMBOLS: dict[Verdict, str] = {"passed": "✓", "failed": "✗", "inconclusive": "?"}
_CURVES = {
    "loss": "Total loss",
    "forget_loss": "Forget loss",
    "retain_loss": "Retain loss",
    "grad_norm": "Gradient norm",
    "unclipped_fraction": "Unclipped fraction (Sophia)",
    "lr": "Learning rate",
}
#: Control characters and those that turn the direction of text around: shown, never obeyed.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

Mark = Literal["same", "lost", "new"]


def render(report: Report) -> str:
    """Return the whole page."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=HEADLINES[report.verdict],
            charts_of_sets={name: bar_charts(_of_set(report, name)) for name in _measured_sets(report)},
            measured={name: _table(report, name) for name in _measured_sets(report)},
            glossary=[CATALOGUE[metric] for metric in report.spec.evaluation.metrics if metric in CATALOGUE],
            curves=list(_curves(report)),
            absent=list(_absent(report)),
            examples=_examples(report),
            settings=list(_flat(report.spec.model_dump(mode="json", exclude={"criteria"}))),
            rests_on=_rests_on(report),
        )
    )


def marked(before: str, after: str) -> tuple[list[tuple[Mark, str]], list[tuple[Mark, str]]]:
    """Split two answers into runs of words: in both ("same"), only before ("lost"), only after ("new")."""
    a, b = re.findall(r"\s+|\w+|[^\w\s]", before), re.findall(r"\s+|\w+|[^\w\s]", after)
    left: list[tuple[Mark, str]] = []
    right: list[tuple[Mark, str]] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        same = kind == "equal"
        if a1 > a0:
            left.append(("same" if same else "lost", "".join(a[a0:a1])))
        if b1 > b0:
            right.append(("same" if same else "new", "".join(b[b0:b1])))
    return left, right


def duration(seconds: float) -> str:
    """Write seconds for people: 8.2 s, 4 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: float) -> str:
    """Write bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def bound(criterion: Criterion) -> str:
    """Write what a criterion asks, for people."""
    word, value = ("at most", criterion.at_most) if criterion.at_most is not None else ("at least", criterion.at_least)
    assert value is not None
    return f"{word} {number(value)}" + (" times the base model's" if criterion.relative_to_base else "")


@dataclass(frozen=True)
class _Line:
    """One metric in the table of a set: a cell for each model."""

    cells: tuple[MetricValue | None, ...]
    count: int


@dataclass(frozen=True)
class _Absent:
    metric: str
    sets: tuple[str, ...]
    reason: str


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("soul_core", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "duration": duration, "size": size, "bound": bound, "visible": visible}
    environment.globals |= {"marked": marked, "symbols": _SYMBOLS, "title_of": _title_of}
    return environment


def visible(text: str) -> str:
    """Replace characters that would act on the page instead of showing."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _title_of(metric: str) -> str:
    return CATALOGUE[metric].title if metric in CATALOGUE else metric


def _measured_sets(report: Report) -> list[str]:
    sets = {
        name: None
        for model in report.models.values()
        for name, values in model.sets.items()
        if any(value.value is not None for value in values.values())
    }
    return list(sets)


def _of_set(report: Report, name: str) -> dict[str, Mapping[str, MetricValue]]:
    return {model: measured.sets[name] for model, measured in report.models.items() if name in measured.sets}


def _table(report: Report, name: str) -> dict[str, _Line]:
    of_set = _of_set(report, name)
    lines = {}
    for metric in dict.fromkeys(metric for values in of_set.values() for metric in values):
        cells = tuple(of_set[model].get(metric) if model in of_set else None for model in report.models)
        if any(cell and cell.value is not None for cell in cells):
            lines[metric] = _Line(cells, max(cell.count for cell in cells if cell))
    return lines


def _curves(report: Report) -> Iterator[LineChart]:
    known = [name for name in _CURVES if name in report.run.curves]
    for name in known + [name for name in report.run.curves if name not in _CURVES]:
        chart = line_chart(_CURVES.get(name, name.replace("_", " ")), report.run.curves[name])
        if chart:
            yield chart


def _absent(report: Report) -> Iterator[_Absent]:
    gaps: dict[tuple[str, str], list[str]] = {}
    for measured in report.models.values():
        for set_name, values in measured.sets.items():
            for metric, value in values.items():
                if value.value is None:
                    names = gaps.setdefault((metric, value.absent_reason or "no reason is known"), [])
                    names += [set_name] if set_name not in names else []
    for (metric, reason), names in gaps.items():
        yield _Absent(_title_of(metric), tuple(names), reason)


def _examples(report: Report) -> dict[str, list[SideBySide]]:
    """Return the questions by set, in the report's order."""
    by_set: dict[str, list[SideBySide]] = {}
    for example in report.examples:
        by_set.setdefault(example.set, []).append(example)
    return by_set


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value))
        else:
            yield prefix + key, str(value)


def _rests_on(report: Report) -> str:
    unlearned = report.models.get("unlearned")
    rows = [f"{len(numbers)} {name}" for name, numbers in unlearned.rows.items()] if unlearned else []
    evaluation = report.spec.evaluation
    how = (
        f"{100 * evaluation.confidence:.4g}% bootstrap intervals over rows"
        if evaluation.bootstrap
        else "values alone, without intervals, as the spec asks"
    )
    return f"It rests on {' + '.join(rows) or 'no'} rows, measured before and after by the same code, and on {how}."
