"""What attacks recover: the numbers of each attack, model by model, and the fraction that came back. Torch-free.

The page's only arithmetic: (attacked - baseline) / (base model - baseline), on the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_percent
from soul_core.rendering.labels import get_attack_title
from soul_core.report import AttackResult, MetricValue, Report
from soul_core.spec import BASE, FORGET, JUDGED_MODEL

#: Metrics that can sum up a data set, in the order of preference.
MAIN_METRICS = ("keyword_recall", "probability", "rouge_l", "perplexity")
#: A metric sums up a set only if some model reaches this value: what no model knows cannot show that it was forgotten.
MIN_NOTABLE_VALUE = 0.2


@dataclass(frozen=True)
class AttackedMetric:
    """One metric of one model without (baseline) and under (attacked) an attack."""

    baseline: MetricValue | None
    attacked: MetricValue | None
    gain: MetricValue | None
    recovered_fraction: float | None


@dataclass(frozen=True)
class AttackRow:
    """One metric under one attack: a cell for each model.

    Attributes:
        is_main: A criterion reads this metric, or it sums up the forget set.
    """

    attack: str
    set: str
    metric: str
    cells: tuple[AttackedMetric | None, ...]
    is_main: bool


@dataclass(frozen=True)
class VariantRow:
    """One way of asking, or one layer: a cell for each model.

    Attributes:
        is_worst: This variant reveals most of the judged model.
    """

    variant: str
    cells: tuple[MetricValue | None, ...]
    is_worst: bool


def choose_main_metric(report: Report, set_name: str) -> str | None:
    """Return the metric that sums up a data set: the first main metric that was measured and is notable."""
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    values = judged.sets.get(set_name, {}) if judged else {}
    measured = [name for name in MAIN_METRICS if name in values and values[name].value is not None]

    def is_notable(metric: str) -> bool:
        of_models = [model.sets.get(set_name, {}).get(metric) for model in report.models.values()]
        return any(value and value.value is not None and value.value >= MIN_NOTABLE_VALUE for value in of_models)

    return next(filter(is_notable, measured), measured[0] if measured else None)


def make_attack_rows(report: Report, attack: AttackResult) -> Iterator[AttackRow]:
    """Yield every metric of every data set under one attack."""
    in_criteria = {(c.set, c.metric) for c in (r.criterion for r in report.criteria) if c.attack == attack.label}
    preferred = (choose_main_metric(report, FORGET), *MAIN_METRICS)
    for set_name in dict.fromkeys(name for model in attack.attacked.values() for name in model):
        metrics = list(dict.fromkeys(m for model in attack.attacked.values() for m in model.get(set_name, {})))
        main = next((metric for metric in preferred if metric in metrics), next(iter(metrics), None))
        for metric in metrics:
            cells = tuple(_make_cell(attack, model, set_name, metric) for model in report.models)
            if any(cell and cell.attacked and cell.attacked.value is not None for cell in cells):
                is_main = (set_name, metric) in in_criteria or (set_name == FORGET and metric == main)
                yield AttackRow(get_attack_title(attack), set_name, metric, cells, is_main)


def _make_cell(attack: AttackResult, model: str, set_name: str, metric: str) -> AttackedMetric | None:
    attacked = attack.attacked.get(model, {}).get(set_name, {}).get(metric)
    if attacked is None:
        return None
    baseline = attack.baseline.get(model, {}).get(set_name, {}).get(metric)
    gain = attack.gains.get(model, {}).get(set_name, {}).get(metric)
    return AttackedMetric(baseline, attacked, gain, compute_recovered_fraction(attack, model, set_name, metric))


def compute_recovered_fraction(attack: AttackResult, model: str, set_name: str, metric: str) -> float | None:
    """Return how much of what a model forgot an attack brings back: 0 is nothing, 1 the base model's value.

    None if nothing was forgotten, or the difference may be chance: the intervals of base and model overlap.
    """
    attacked = attack.attacked.get(model, {}).get(set_name, {}).get(metric)
    baseline = attack.baseline.get(model, {}).get(set_name, {}).get(metric)
    base = attack.baseline.get(BASE, {}).get(set_name, {}).get(metric)
    if model == BASE or set_name != FORGET or not (attacked and baseline and base):
        return None
    if attacked.value is None or baseline.value is None or base.value is None:
        return None
    higher, lower = (base, baseline) if _is_lower_more_forgotten(metric) else (baseline, base)
    assert higher.value is not None
    assert lower.value is not None
    if (higher.interval or (higher.value,))[0] <= (lower.interval or (lower.value,))[-1]:
        return None
    return (attacked.value - baseline.value) / (base.value - baseline.value)


def format_recovered_fraction(fraction: float) -> str:
    """Write how much an attack brings back: 59% recovered."""
    if fraction <= 0:
        return "nothing recovered"
    return f"{format_percent(fraction)} recovered" if fraction >= 0.01 else "less than 1% recovered"


def compare_variants(report: Report, attack: AttackResult) -> tuple[str, list[VariantRow]]:
    """Return the metric by which an attack's variants are compared, and a row for each variant."""
    judged = JUDGED_MODEL[report.spec.kind]
    metrics = dict.fromkeys(
        metric
        for models in attack.variants.values()
        for values in models.values()
        for metric, value in values.items()
        if value.value is not None
    )
    preferred = (choose_main_metric(report, FORGET), *MAIN_METRICS)
    metric = next((name for name in preferred if name in metrics), next(iter(metrics), "")) or ""
    values = {
        variant: value.value
        for variant, models in attack.variants.items()
        if (value := models.get(judged, {}).get(metric)) is not None and value.value is not None
    }
    choose = max if _is_lower_more_forgotten(metric) else min
    worst = choose(values, key=lambda variant: values[variant], default=None)
    rows = [
        VariantRow(variant, tuple(models.get(name, {}).get(metric) for name in report.models), variant == worst)
        for variant, models in attack.variants.items()
    ]
    return metric, rows


def _is_lower_more_forgotten(metric: str) -> bool:
    return metric not in METRIC_CATALOG or METRIC_CATALOG[metric].better_on_forget == "lower"
