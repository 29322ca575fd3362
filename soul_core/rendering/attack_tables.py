"""What came back under attack: numbers of each attack, model by model, and the share of the way back. Torch-free.

The page's only arithmetic: (under - without) / (base without - without), on the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG
from soul_core.rendering.labels import get_attack_title
from soul_core.report import AttackResult, MetricValue, Report
from soul_core.spec import BASE, FORGET, JUDGED_MODEL

#: What a set is summed up by, the first that was measured.
MAIN_METRICS = ("keyword_recall", "probability", "rouge_l", "perplexity")
MIN_NOTABLE_VALUE = 0.2


@dataclass(frozen=True)
class AttackedMetric:
    """One metric of one model under an attack."""

    baseline: MetricValue | None
    attacked: MetricValue | None
    recovered_fraction: float | None


@dataclass(frozen=True)
class AttackRow:
    """One metric under one attack: a cell for each model."""

    attack: str
    set: str
    metric: str
    cells: tuple[AttackedMetric | None, ...]
    is_main: bool


@dataclass(frozen=True)
class VariantRow:
    """One way of asking (or layer): a cell for each model. `is_worst`: brings out most of the judged model."""

    variant: str
    cells: tuple[MetricValue | None, ...]
    is_worst: bool


def choose_main_metric(report: Report, set_name: str) -> str | None:
    """Return what sums up a set: the first main metric that was measured and that some model does well by.

    What no model has much of cannot show that it went.
    """
    judged = report.models.get(JUDGED_MODEL[report.spec.kind])
    values = judged.sets.get(set_name, {}) if judged else {}
    measured = [name for name in MAIN_METRICS if name in values and values[name].value is not None]

    def most(metric: str) -> float:
        found = [model.sets.get(set_name, {}).get(metric) for model in report.models.values()]
        return max((one.value for one in found if one and one.value is not None), default=0.0)

    return next((name for name in measured if most(name) >= MIN_NOTABLE_VALUE), measured[0] if measured else None)


def make_attack_rows(report: Report, attack: AttackResult) -> Iterator[AttackRow]:
    """Yield every metric of every set under one attack, those that decide or sum up marked as main."""
    asked = {(c.set, c.metric) for c in report.spec.criteria if c.attack == attack.label}
    telling = choose_main_metric(report, FORGET)
    for set_name in dict.fromkeys(name for model in attack.attacked.values() for name in model):
        metrics = list(dict.fromkeys(m for model in attack.attacked.values() for m in model.get(set_name, {})))
        main = next((m for m in (telling, *MAIN_METRICS) if m in metrics), next(iter(metrics), None))
        for metric in metrics:
            cells = tuple(_struck(attack, model, set_name, metric) for model in report.models)
            if any(cell and cell.attacked and cell.attacked.value is not None for cell in cells):
                is_main = (set_name, metric) in asked or (set_name == FORGET and metric == main)
                yield AttackRow(get_attack_title(attack), set_name, metric, cells, is_main)


def compute_recovered_fraction(attack: AttackResult, model: str, set_name: str, metric: str) -> float | None:
    """Return how much of the way back to the base an attack leads: 0 nothing came back, 1 all.

    None: nothing was gone, or no more than chance may take (the intervals of base and model overlap).
    """
    under = attack.attacked.get(model, {}).get(set_name, {}).get(metric)
    without = attack.baseline.get(model, {}).get(set_name, {}).get(metric)
    base = attack.baseline.get(BASE, {}).get(set_name, {}).get(metric)
    if model == BASE or set_name != FORGET or not (under and without and base):
        return None
    if under.value is None or without.value is None or base.value is None:
        return None
    known, left = (base, without) if _lower_is_gone(metric) else (without, base)
    assert known.value is not None
    assert left.value is not None
    if (known.interval or (known.value,))[0] <= (left.interval or (left.value,))[-1]:
        return None
    return (under.value - without.value) / (base.value - without.value)


def _lower_is_gone(metric: str) -> bool:
    return metric not in METRIC_CATALOG or METRIC_CATALOG[metric].better_on_forget == "lower"


def compare_variants(report: Report, attack: AttackResult) -> tuple[str, list[VariantRow]]:
    """Return the metric that ways of asking are compared by, and a line for each of them."""
    judged = JUDGED_MODEL[report.spec.kind]
    metrics = dict.fromkeys(
        m
        for models in attack.variants.values()
        for values in models.values()
        for m in values
        if values[m].value is not None
    )
    telling = choose_main_metric(report, FORGET)
    metric = next((m for m in (telling, *MAIN_METRICS) if m in metrics), next(iter(metrics), "")) or ""
    found = {way: models.get(judged, {}).get(metric) for way, models in attack.variants.items()}
    values = {way: value.value for way, value in found.items() if value is not None and value.value is not None}
    worst = (max if _lower_is_gone(metric) else min)(values, key=lambda way: values[way], default=None)
    lines = [
        VariantRow(way, tuple(models.get(name, {}).get(metric) for name in report.models), way == worst)
        for way, models in attack.variants.items()
    ]
    return metric, lines


def _struck(attack: AttackResult, model: str, set_name: str, metric: str) -> AttackedMetric | None:
    under = attack.attacked.get(model, {}).get(set_name, {}).get(metric)
    if under is None:
        return None
    without = attack.baseline.get(model, {}).get(set_name, {}).get(metric)
    return AttackedMetric(without, under, compute_recovered_fraction(attack, model, set_name, metric))
