"""What page and card list: criteria, numbers of each data set, missing numbers, highlights, settings. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_core.formatting import format_interval, format_number, format_percent
from soul_core.rendering.attack_tables import choose_main_metric, compute_recovered_fraction, make_attack_rows
from soul_core.rendering.labels import get_metric_title, get_set_title
from soul_core.report import CriterionResult, MetricValue, ModelMeasurements, Report
from soul_core.spec import (
    ALL,
    BASE,
    FORGET,
    GENERAL,
    GENERAL_OWN,
    HOLDOUT,
    JUDGED_MODEL,
    RETAIN,
    RETAIN_HELD_OUT,
    RETRAINED,
    TRAIN,
    JobKind,
)


@dataclass(frozen=True)
class CriterionRow:
    """A criterion in its own terms: in the metric's unit, or in factors of the base model's value.

    Attributes:
        base_value: The base model's value if the bound is a factor of it.
    """

    result: CriterionResult
    value: float | None
    interval: tuple[float, float] | None
    bound: float | None
    base_value: float | None


@dataclass(frozen=True)
class MetricRow:
    """One metric of a data set: a cell for each model."""

    metric: str
    cells: tuple[MetricValue | None, ...]
    num_examples: int


@dataclass(frozen=True)
class MissingMetric:
    """Metrics that could not be measured, for one reason."""

    metric: str
    where: str
    reason: str


@dataclass(frozen=True)
class Highlight:
    """One number that sums up a data set, before and after."""

    title: str
    before: str
    after: str
    remark: str


def order_models(report: Report) -> Report:
    """Return the report with base, judged and retrained model first, in this order."""
    known = [BASE, JUDGED_MODEL[report.spec.kind], RETRAINED]
    names = [name for name in known if name in report.models] + [name for name in report.models if name not in known]
    return report.model_copy(update={"models": {name: report.models[name] for name in names}})


def make_criterion_rows(report: Report) -> Iterator[CriterionRow]:
    """Yield each criterion with the measured value, in the criterion's own terms."""
    for result in report.criteria:
        criterion = result.criterion
        factor = criterion.at_most if criterion.at_most is not None else criterion.at_least
        value, interval, bound = result.value, result.interval, result.bound
        base_value = bound / factor if criterion.relative_to_base and bound and factor else None
        if base_value and value is not None:
            value = value / base_value
            interval = interval and (interval[0] / base_value, interval[1] / base_value)
        yield CriterionRow(result, value, interval, factor if base_value else bound, base_value)


def list_measured_sets(report: Report) -> list[str]:
    """Return the data sets on which a model has a number: those of the job first, general and holdout last."""
    measured = {
        name: None
        for model in report.models.values()
        for name, values in model.sets.items()
        if any(value.value is not None for value in values.values())
    }
    first, last = (FORGET, TRAIN, RETAIN, RETAIN_HELD_OUT, ALL), (GENERAL, GENERAL_OWN, HOLDOUT)
    others = [name for name in measured if name not in {*first, *last}]
    return [name for name in (*first, *others, *last) if name in measured]


def get_set_values(report: Report, set_name: str) -> dict[str, Mapping[str, MetricValue]]:
    """Return model -> metric -> value of one data set."""
    return {model: measured.sets[set_name] for model, measured in report.models.items() if set_name in measured.sets}


def make_metric_rows(report: Report, set_name: str) -> list[MetricRow]:
    """Return every metric of a data set for which a model has a number."""
    by_model = get_set_values(report, set_name)
    rows = []
    for metric in dict.fromkeys(metric for values in by_model.values() for metric in values):
        cells = tuple(by_model[model].get(metric) if model in by_model else None for model in report.models)
        if any(cell and cell.value is not None for cell in cells):
            rows.append(MetricRow(metric, cells, max(cell.count for cell in cells if cell)))
    return rows


def list_missing_metrics(report: Report) -> Iterator[MissingMetric]:
    """Yield what could not be measured. Metrics with the same reason on the same sets share a line."""
    models_of: dict[tuple[str, str, str], list[str]] = {}
    for model, measured in report.models.items():
        for set_name, values in measured.sets.items():
            for metric, value in values.items():
                if value.value is None:
                    reason = value.absent_reason or "no reason is known"
                    models_of.setdefault((metric, set_name, reason), []).append(model)
    sets_of: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for (metric, set_name, reason), models in models_of.items():
        is_of_all = len(models) == sum(set_name in measured.sets for measured in report.models.values())
        sets_of.setdefault((metric, () if is_of_all else tuple(models), reason), []).append(set_name)
    titles_of: dict[tuple[tuple[str, ...], tuple[str, ...], str], list[str]] = {}
    for (metric, only_models, reason), set_names in sets_of.items():
        titles_of.setdefault((tuple(set_names), only_models, reason), []).append(get_metric_title(metric))
    for (names, only_models, reason), titles in titles_of.items():
        models_text = f" for {', '.join(only_models)}" if only_models else ""
        yield MissingMetric(", ".join(titles), _format_sets(names) + models_text, reason)


def _format_sets(names: Sequence[str]) -> str:
    if names == (ALL,):
        return "of the model as a whole"
    return f"on the {', '.join(names)} set{'s' if len(names) > 1 else ''}"


def make_highlights(report: Report) -> Iterator[Highlight]:
    """Yield the few numbers that sum up the report: what was forgotten, retained and recovered."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    if judged is None:
        return
    for set_name in (FORGET, TRAIN, RETAIN, RETAIN_HELD_OUT, GENERAL):
        metric = choose_main_metric(report, set_name)
        if metric is not None and (set_name != GENERAL or RETAIN not in judged.sets):
            yield _make_highlight(report, set_name, metric)
    if strongest := find_strongest_attack(report):
        yield strongest


def _make_highlight(report: Report, set_name: str, metric: str) -> Highlight:
    judged = JUDGED_MODEL[report.spec.kind]

    def get_value(model: str) -> MetricValue | None:
        value = report.models.get(model, ModelMeasurements(sets={})).sets.get(set_name, {}).get(metric)
        return value if value and value.value is not None else None

    after, before = get_value(judged), get_value(BASE) if report.spec.kind != JobKind.EVALUATE else None
    assert after is not None
    assert after.value is not None
    level = format_percent(report.spec.evaluation.confidence)
    remarks = [f"{level} interval {format_interval(after.interval)}"] if after.interval else []
    for model in report.models:
        other = get_value(model)
        if model != judged and other and other is not before and other.value is not None:
            remarks.append(f"{model} {format_number(other.value)}")
    return Highlight(
        title=f"{get_metric_title(metric)} · {get_set_title(set_name).lower()}",
        before=format_number(before.value) if before and before.value is not None else "",
        after=format_number(after.value),
        remark=" · ".join(remarks),
    )


def find_strongest_attack(report: Report) -> Highlight | None:
    """Return what the attack recovers that recovers most, by each attack's main metric."""
    judged = JUDGED_MODEL[report.spec.kind]
    candidates = []
    for attack in report.attacks:
        for row in make_attack_rows(report, attack):
            fraction = compute_recovered_fraction(attack, judged, row.set, row.metric)
            if row.is_main and fraction is not None:
                candidates.append((fraction, row, attack))
    if not candidates:
        return None
    fraction, row, attack = max(candidates, key=lambda candidate: candidate[0])
    baseline = attack.baseline[judged][row.set][row.metric].value
    attacked = attack.attacked[judged][row.set][row.metric].value
    assert baseline is not None
    assert attacked is not None
    num_attacks = len({attack.label for _, _, attack in candidates})
    values = f"{format_number(baseline)} → {format_number(attacked)}"
    return Highlight(
        title="Recovered by the strongest attack",
        before="",
        after=format_percent(max(fraction, 0.0)),
        remark=f"{row.attack}: {get_metric_title(row.metric).lower()} {values}; {num_attacks} attacks compared",
    )


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as dotted names with their values as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten_settings(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                yield from flatten_settings(
                    item if isinstance(item, Mapping) else {"": item}, f"{prefix}{key}.{number}."
                )
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        elif value is None:
            yield prefix + key, "none"
        else:
            yield prefix + key, ("yes" if value else "no") if isinstance(value, bool) else str(value)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Write an attack's settings in one line."""
    return ", ".join(f"{key} {value}" for key, value in flatten_settings(settings) if key != "kind")


def format_evidence(report: Report) -> str:
    """Write how many rows the judged model's numbers are computed from, and how certain they are."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    rows = [f"{len(numbers)} {name}" for name, numbers in judged.rows.items()] if judged else []
    evaluation = report.spec.evaluation
    certainty = (
        f"with {format_percent(evaluation.confidence)} bootstrap intervals over rows"
        if evaluation.bootstrap
        else "without intervals, as the spec asks"
    )
    when = "on every model" if report.spec.kind == JobKind.EVALUATE else "before and after"
    return f"Measured on {' + '.join(rows) or 'no'} rows, {when} with the same code, {certainty}."
