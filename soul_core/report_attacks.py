"""What came back under attack: numbers of each attack, model by model, and the share of the way back. Torch-free.

The page's only arithmetic: (under - without) / (base without - without), on the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from soul_core.metric_catalogue import CATALOGUE
from soul_core.report import AttackResult, MetricValue, Report
from soul_core.report_words import title_of_attack
from soul_core.spec import BASE, FORGET, JUDGED

#: What a set is summed up by, the first that was measured.
MAIN_METRICS = ("keyword_recall", "probability", "rouge_l", "perplexity")


@dataclass(frozen=True)
class Struck:
    """One metric of one model under an attack."""

    without: MetricValue | None
    under: MetricValue | None
    recovered: float | None


@dataclass(frozen=True)
class AttackLine:
    """One metric under one attack: a cell for each model."""

    attack: str
    set: str
    metric: str
    cells: tuple[Struck | None, ...]
    is_main: bool


@dataclass(frozen=True)
class WayLine:
    """One way of asking (or layer): a cell for each model. `is_worst`: brings out most of the judged model."""

    way: str
    cells: tuple[MetricValue | None, ...]
    is_worst: bool


def attack_lines(report: Report, attack: AttackResult) -> Iterator[AttackLine]:
    """Yield every metric of every set under one attack, those that decide or sum up marked as main."""
    asked = {(c.set, c.metric) for c in report.spec.criteria if c.attack == attack.label}
    sets = dict.fromkeys(name for model in attack.under.values() for name in model)
    for set_name in sets:
        metrics = dict.fromkeys(m for model in attack.under.values() for m in model.get(set_name, {}))
        main = next((m for m in MAIN_METRICS if m in metrics), next(iter(metrics), None))
        for metric in metrics:
            cells = tuple(_struck(attack, model, set_name, metric) for model in report.models)
            if any(cell and cell.under and cell.under.value is not None for cell in cells):
                is_main = (set_name, metric) in asked or (set_name == FORGET and metric == main)
                yield AttackLine(title_of_attack(attack), set_name, metric, cells, is_main)


def recovered_share(attack: AttackResult, model: str, set_name: str, metric: str) -> float | None:
    """Return how much of the way back to the base an attack leads: 0 nothing came back, 1 all. None: nothing was gone.

    (under - without) / (base without - without), on the same rows.
    """
    found = [
        where.get(name, {}).get(set_name, {}).get(metric)
        for where, name in ((attack.under, model), (attack.without, model), (attack.without, BASE))
    ]
    under, without, base = (value.value if value else None for value in found)
    if model == BASE or set_name != FORGET or under is None or without is None or base is None:
        return None
    lower_is_gone = metric not in CATALOGUE or CATALOGUE[metric].better_on_forget == "lower"
    gone = base - without if lower_is_gone else without - base
    if gone <= 0:
        return None
    return ((under - without) if lower_is_gone else (without - under)) / gone


def ways_of(report: Report, attack: AttackResult) -> tuple[str, list[WayLine]]:
    """Return the metric that ways of asking are compared by, and a line for each of them."""
    judged = JUDGED[report.spec.kind]
    metrics = dict.fromkeys(
        m
        for models in attack.variants.values()
        for values in models.values()
        for m in values
        if values[m].value is not None
    )
    metric = next((m for m in MAIN_METRICS if m in metrics), next(iter(metrics), ""))
    found = {way: models.get(judged, {}).get(metric) for way, models in attack.variants.items()}
    values = {way: value.value for way, value in found.items() if value is not None and value.value is not None}
    lower_is_gone = metric not in CATALOGUE or CATALOGUE[metric].better_on_forget == "lower"
    worst = (max if lower_is_gone else min)(values, key=lambda way: values[way], default=None)
    lines = [
        WayLine(way, tuple(models.get(name, {}).get(metric) for name in report.models), way == worst)
        for way, models in attack.variants.items()
    ]
    return metric, lines


def _struck(attack: AttackResult, model: str, set_name: str, metric: str) -> Struck | None:
    under = attack.under.get(model, {}).get(set_name, {}).get(metric)
    if under is None:
        return None
    without = attack.without.get(model, {}).get(set_name, {}).get(metric)
    return Struck(without, under, recovered_share(attack, model, set_name, metric))
