"""What the page lists: criteria, numbers of each set, gaps, highlights, settings. Torch-free.

Everything here is taken from the report as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_core.formatting import format_interval, format_number, format_percent
from soul_core.rendering.attack_tables import choose_main_metric, compute_recovered_fraction, make_attack_rows
from soul_core.rendering.labels import get_metric_title, get_set_title
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Report
from soul_core.spec import ALL, BASE, FORGET, GENERAL, HOLDOUT, JUDGED_MODEL, RETAIN, RETRAINED, TRAIN


@dataclass(frozen=True)
class CriterionRow:
    """A criterion in the terms it was asked in: as it stands, or in factors of the base model's value."""

    result: CriterionResult
    value: float | None
    interval: tuple[float, float] | None
    bound: float | None
    base_value: float | None
    """The base model's value where the bound is a factor of it."""


@dataclass(frozen=True)
class MetricRow:
    """One metric of a set: a cell for each model."""

    metric: str
    cells: tuple[MetricValue | None, ...]
    num_examples: int


@dataclass(frozen=True)
class MissingMetric:
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


def order_models(report: Report) -> Report:
    """Put base, judged and retrained model first, in this order, others behind them."""
    known = [BASE, JUDGED_MODEL[report.spec.kind], RETRAINED]
    names = [name for name in known if name in report.models] + [n for n in report.models if n not in known]
    return report.model_copy(update={"models": {name: report.models[name] for name in names}})


def make_criterion_rows(report: Report) -> Iterator[CriterionRow]:
    """Yield the criteria with what was measured, in the terms each was asked in."""
    for result in report.criteria:
        asked = result.criterion
        factor = asked.at_most if asked.at_most is not None else asked.at_least
        value, interval, bound = result.value, result.interval, result.bound
        base = bound / factor if asked.relative_to_base and bound and factor else None
        if base and value is not None:
            value = value / base
            interval = interval and (interval[0] / base, interval[1] / base)
        yield CriterionRow(result, value, interval, factor if base else bound, base)


def list_measured_sets(report: Report) -> list[str]:
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


def get_set_values(report: Report, name: str) -> dict[str, Mapping[str, MetricValue]]:
    """Return model -> metric -> value of one set."""
    return {model: measured.sets[name] for model, measured in report.models.items() if name in measured.sets}


def make_metric_rows(report: Report, name: str) -> list[MetricRow]:
    """Return every metric of a set that at least one model has a number for."""
    values = get_set_values(report, name)
    lines = []
    for metric in dict.fromkeys(metric for of_model in values.values() for metric in of_model):
        cells = tuple(values[model].get(metric) if model in values else None for model in report.models)
        if any(cell and cell.value is not None for cell in cells):
            lines.append(MetricRow(metric, cells, max(cell.count for cell in cells if cell)))
    return lines


def list_missing_metrics(report: Report) -> Iterator[MissingMetric]:
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
        together.setdefault((tuple(names), of_models, reason), []).append(get_metric_title(metric))
    for (on, of_models, reason), metrics in together.items():
        only = f" for {', '.join(of_models)}" if of_models else ""
        yield MissingMetric(", ".join(metrics), _on(on) + only, reason)


def make_highlights(report: Report) -> Iterator[Highlight]:
    """Yield the few numbers a hurried reader should see: what is gone, what is kept, what comes back."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    if judged is None:
        return
    for name in (FORGET, TRAIN, RETAIN, GENERAL):
        metric = choose_main_metric(report, name)
        if metric is not None and (name != GENERAL or RETAIN not in judged.sets):
            yield _highlight(report, name, metric)
    if strongest := find_strongest_attack(report):
        yield strongest


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as dotted names and text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten_settings(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            for i, one in enumerate(value):
                yield from flatten_settings(one if isinstance(one, Mapping) else {"": one}, f"{prefix}{key}.{i}.")
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + key, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Write an attack's settings in one line."""
    return ", ".join(f"{key} {value}" for key, value in flatten_settings(settings) if key != "kind")


def format_evidence(report: Report) -> str:
    """Say how many rows the judged model's numbers come from, and how sure they are."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    rows = [f"{len(numbers)} {name}" for name, numbers in judged.rows.items()] if judged else []
    evaluation = report.spec.evaluation
    how = (
        f"{format_percent(evaluation.confidence)} bootstrap intervals over rows"
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
    judged = JUDGED_MODEL[report.spec.kind]

    def value(model: str) -> MetricValue | None:
        of_model = report.models.get(model, ModelMeasurements(sets={})).sets.get(name, {}).get(metric)
        return of_model if of_model and of_model.value is not None else None

    after, before = value(judged), value(BASE) if report.spec.kind != "evaluate" else None
    assert after is not None
    assert after.value is not None
    remarks = [f"{format_percent(report.spec.evaluation.confidence)} interval {format_interval(after.interval)}"]
    remarks = remarks if after.interval else []
    for model in report.models:
        other = value(model)
        if model != judged and other and other is not before and other.value is not None:
            remarks.append(f"{model} {format_number(other.value)}")
    return Highlight(
        title=f"{get_metric_title(metric)} · {get_set_title(name).lower()}",
        before=format_number(before.value) if before and before.value is not None else "",
        after=format_number(after.value),
        remark=" · ".join(remarks),
    )


def find_strongest_attack(report: Report) -> Highlight | None:
    """Return what came back under the attack that brought back most, by each attack's main metric."""
    judged = JUDGED_MODEL[report.spec.kind]
    found = []
    for attack in report.attacks:
        for line in make_attack_rows(report, attack):
            share = compute_recovered_fraction(attack, judged, line.set, line.metric)
            if line.is_main and share is not None:
                found.append((share, line, attack))
    if not found:
        return None
    share, line, attack = max(found, key=lambda one: one[0])
    without = attack.baseline[judged][line.set][line.metric].value
    under = attack.attacked[judged][line.set][line.metric].value
    assert without is not None
    assert under is not None
    return Highlight(
        title="Came back under the strongest attack",
        before="",
        after=format_percent(max(share, 0.0)),
        remark=f"{line.attack}: {get_metric_title(line.metric).lower()} {format_number(without)} → "
        f"{format_number(under)}, "
        f"of {len({attack.label for _, _, attack in found})} compared",
    )
