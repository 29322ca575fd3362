"""What the page lists: criteria, numbers of each set, gaps, highlights, settings. Torch-free.

Everything here is taken from the report as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_core.catalogue import number
from soul_core.rendering.attack_tables import attack_lines, recovered_share, telling_metric
from soul_core.rendering.labels import interval_text, percent, title_of, title_of_set
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Report
from soul_core.spec import ALL, BASE, FORGET, GENERAL, HOLDOUT, JUDGED, REFERENCE, RETAIN, TRAIN


@dataclass(frozen=True)
class Judged:
    """A criterion in the terms it was asked in: as it stands, or in factors of the base model's value."""

    result: CriterionResult
    value: float | None
    interval: tuple[float, float] | None
    bound: float | None
    base: float | None
    """The base model's value where the bound is a factor of it."""


@dataclass(frozen=True)
class Line:
    """One metric of a set: a cell for each model."""

    metric: str
    cells: tuple[MetricValue | None, ...]
    count: int


@dataclass(frozen=True)
class Gap:
    """A metric that could not be measured."""

    metric: str
    where: str
    reason: str


@dataclass(frozen=True)
class Highlight:
    """One number that sums up a set, before and after."""

    title: str
    before: str
    after: str
    remark: str


def in_order(report: Report) -> Report:
    """Put base, judged and retrained model first, in this order, others behind them."""
    known = [BASE, JUDGED[report.spec.kind], REFERENCE]
    names = [name for name in known if name in report.models] + [n for n in report.models if n not in known]
    return report.model_copy(update={"models": {name: report.models[name] for name in names}})


def judged_of(report: Report) -> Iterator[Judged]:
    """Yield the criteria with what was measured, in the terms each was asked in."""
    for result in report.criteria:
        asked = result.criterion
        factor = asked.at_most if asked.at_most is not None else asked.at_least
        value, interval, bound = result.value, result.interval, result.bound
        base = bound / factor if asked.relative_to_base and bound and factor else None
        if base and value is not None:
            value = value / base
            interval = interval and (interval[0] / base, interval[1] / base)
        yield Judged(result, value, interval, factor if base else bound, base)


def measured_sets(report: Report) -> list[str]:
    """Return the sets on which at least one model has a number: what a job is about first, what is beside it last."""
    measured = {
        name: None
        for model in report.models.values()
        for name, values in model.sets.items()
        if any(value.value is not None for value in values.values())
    }
    first, last = (FORGET, TRAIN, RETAIN, ALL), (GENERAL, HOLDOUT)
    others = [name for name in measured if name not in {*first, *last}]
    return [name for name in (*first, *others, *last) if name in measured]


def of_set(report: Report, name: str) -> dict[str, Mapping[str, MetricValue]]:
    """Return model -> metric -> value of one set."""
    return {model: measured.sets[name] for model, measured in report.models.items() if name in measured.sets}


def lines_of(report: Report, name: str) -> list[Line]:
    """Return every metric of a set that at least one model has a number for."""
    values = of_set(report, name)
    lines = []
    for metric in dict.fromkeys(metric for of_model in values.values() for metric in of_model):
        cells = tuple(values[model].get(metric) if model in values else None for model in report.models)
        if any(cell and cell.value is not None for cell in cells):
            lines.append(Line(metric, cells, max(cell.count for cell in cells if cell)))
    return lines


def gaps_of(report: Report) -> Iterator[Gap]:
    """Yield what could not be measured; what is missing for the same reason, on the same sets, together."""
    lacking: dict[tuple[str, str, str], list[str]] = {}
    for model, measured in report.models.items():
        for set_name, values in measured.sets.items():
            for metric, value in values.items():
                if value.value is None:
                    reason = value.absent_reason or "no reason is known"
                    lacking.setdefault((metric, set_name, reason), []).append(model)
    sets: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for (metric, set_name, reason), models in lacking.items():
        everywhere = len(models) == sum(set_name in measured.sets for measured in report.models.values())
        sets.setdefault((metric, () if everywhere else tuple(models), reason), []).append(set_name)
    together: dict[tuple[tuple[str, ...], tuple[str, ...], str], list[str]] = {}
    for (metric, of_models, reason), names in sets.items():
        together.setdefault((tuple(names), of_models, reason), []).append(title_of(metric))
    for (on, of_models, reason), metrics in together.items():
        only = f" for {', '.join(of_models)}" if of_models else ""
        yield Gap(", ".join(metrics), _on(on) + only, reason)


def highlights_of(report: Report) -> Iterator[Highlight]:
    """Yield the few numbers a hurried reader should see: what is gone, what is kept, what comes back."""
    judged = report.models.get(JUDGED[report.spec.kind])
    if judged is None:
        return
    for name in (FORGET, TRAIN, RETAIN, GENERAL):
        metric = telling_metric(report, name)
        if metric is not None and (name != GENERAL or RETAIN not in judged.sets):
            yield _highlight(report, name, metric)
    if strongest := strongest_attack(report):
        yield strongest


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as dotted names and text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            for i, one in enumerate(value):
                yield from flat(one if isinstance(one, Mapping) else {"": one}, f"{prefix}{key}.{i}.")
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + key, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Write an attack's settings in one line."""
    return ", ".join(f"{key} {value}" for key, value in flat(settings) if key != "kind")


def rests_on(report: Report) -> str:
    """Say how many rows the judged model's numbers come from, and how sure they are."""
    judged = report.models.get(JUDGED[report.spec.kind])
    rows = [f"{len(numbers)} {name}" for name, numbers in judged.rows.items()] if judged else []
    evaluation = report.spec.evaluation
    how = (
        f"{percent(evaluation.confidence)} bootstrap intervals over rows"
        if evaluation.bootstrap
        else "values alone, without intervals, as the spec asks"
    )
    when = "under each model" if report.spec.kind == "evaluate" else "before and after"
    return f"It rests on {' + '.join(rows) or 'no'} rows, measured {when} by the same code, and on {how}."


def _on(names: Sequence[str]) -> str:
    if names == (ALL,):
        return "of the model as a whole"
    return f"on the {', '.join(names)} set{'s' if len(names) > 1 else ''}"


def _highlight(report: Report, name: str, metric: str) -> Highlight:
    judged = JUDGED[report.spec.kind]

    def value(model: str) -> MetricValue | None:
        of_model = report.models.get(model, ModelMeasurements(sets={})).sets.get(name, {}).get(metric)
        return of_model if of_model and of_model.value is not None else None

    after, before = value(judged), value(BASE) if report.spec.kind != "evaluate" else None
    assert after is not None
    assert after.value is not None
    remarks = [f"{percent(report.spec.evaluation.confidence)} interval {interval_text(after.interval)}"]
    remarks = remarks if after.interval else []
    for model in report.models:
        other = value(model)
        if model != judged and other and other is not before and other.value is not None:
            remarks.append(f"{model} {number(other.value)}")
    return Highlight(
        title=f"{title_of(metric)} · {title_of_set(name).lower()}",
        before=number(before.value) if before and before.value is not None else "",
        after=number(after.value),
        remark=" · ".join(remarks),
    )


def strongest_attack(report: Report) -> Highlight | None:
    """Return what came back under the attack that brought back most, by each attack's main metric."""
    judged = JUDGED[report.spec.kind]
    found = []
    for attack in report.attacks:
        for line in attack_lines(report, attack):
            share = recovered_share(attack, judged, line.set, line.metric)
            if line.is_main and share is not None:
                found.append((share, line, attack))
    if not found:
        return None
    share, line, attack = max(found, key=lambda one: one[0])
    without = attack.without[judged][line.set][line.metric].value
    under = attack.under[judged][line.set][line.metric].value
    assert without is not None
    assert under is not None
    return Highlight(
        title="Came back under the strongest attack",
        before="",
        after=percent(max(share, 0.0)),
        remark=f"{line.attack}: {title_of(line.metric).lower()} {number(without)} → {number(under)}, "
        f"of {len({attack.label for _, _, attack in found})} compared",
    )
