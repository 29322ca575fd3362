"""The charts of a report, and the numbers that each is drawn from. Torch-free."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from markupsafe import Markup

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number
from soul_core.rendering.attack_chart import AttackEffect, draw_attack_chart
from soul_core.rendering.attack_tables import MAIN_METRICS, AttackRow, choose_main_metric, make_attack_rows
from soul_core.rendering.charts import ValuesByModel, draw_bar_charts, draw_curve
from soul_core.rendering.distribution_chart import ModelDistribution, draw_distribution_chart
from soul_core.rendering.labels import get_attack_title, get_metric_title, get_set_title
from soul_core.rendering.scatter_chart import ScatterChart, ScatterPoint, draw_scatter_chart
from soul_core.rendering.svg import MarkerStyle
from soul_core.rendering.tables import get_set_values, list_measured_sets
from soul_core.report import MetricValue, ModelMeasurements, Report
from soul_core.spec import ALL, BASE, FORGET, HOLDOUT, JUDGED_MODEL, RETAIN, RETAIN_HELD_OUT, RETRAINED

_CURVE_TITLES = {
    "loss": "Total loss",
    "forget_loss": "Forget loss",
    "retain_loss": "Retain loss",
    "after_loss": "Loss of what is said instead",
    "grad_norm": "Gradient norm",
    "unclipped_fraction": "Unclipped fraction (Sophia)",
    "lr": "Learning rate",
}
MarkerStyles = Mapping[str, MarkerStyle]
#: Row metric -> the AUC computed from it, for all scores that distinguish forget rows from holdout rows.
AUC_BY_MEMBERSHIP_SCORE = {
    entry.inputs[0][1]: entry.name
    for entry in METRIC_CATALOG.values()
    if entry.scope == "model" and entry.unit == "AUC" and {name for name, _ in entry.inputs} == {FORGET, HOLDOUT}
}
#: Metrics computed from forget and holdout rows.
_MEMBERSHIP_METRICS = {entry.name for entry in METRIC_CATALOG.values() if HOLDOUT in dict(entry.inputs)}


def make_training_curves(report: Report) -> Iterator[tuple[str, Markup]]:
    """Yield title and chart of each curve of the run, known curves first."""
    known = [name for name in _CURVE_TITLES if name in report.run.curves]
    for name in known + [name for name in report.run.curves if name not in _CURVE_TITLES]:
        title = _CURVE_TITLES.get(name, name.replace("_", " ").capitalize())
        if chart := draw_curve(name, title, report.run.curves[name]):
            yield title, chart


def make_bar_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[str, list[Markup]]]:
    """Yield title and charts of each data set's metrics, those of membership in charts of their own.

    The scores that those are computed from are drawn as distributions instead.
    """
    not_here = {*AUC_BY_MEMBERSHIP_SCORE, *_MEMBERSHIP_METRICS}
    for set_name in list_measured_sets(report):
        values = _select_metrics(report, set_name, lambda metric: metric not in not_here)
        if charts := draw_bar_charts(set_name, values, styles):
            yield get_set_title(set_name), charts
    for set_name in list_measured_sets(report):
        values = _select_metrics(report, set_name, lambda metric: metric in _MEMBERSHIP_METRICS)
        if charts := draw_bar_charts(f"{set_name}-members", values, styles):
            yield f"{get_set_title(set_name)}: membership", charts


def _select_metrics(report: Report, set_name: str, is_selected: Callable[[str], bool]) -> ValuesByModel:
    return {
        model: {metric: value for metric, value in values.items() if is_selected(metric)}
        for model, values in get_set_values(report, set_name).items()
    }


def make_scatter_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[ScatterChart, Markup]]:
    """Yield forgetting against utility: by answers, and by TOFU's two numbers if they were measured."""
    charts = [chart for chart in (_make_answer_scatter(report), _make_tofu_scatter(report)) if chart]
    judged = JUDGED_MODEL[report.spec.kind]
    for i, chart in enumerate(charts):
        yield chart, draw_scatter_chart(f"scatter-{i}", chart, styles, start=BASE, end=judged, goal=RETRAINED)


def _make_answer_scatter(report: Report) -> ScatterChart | None:
    has_held_out = all(RETAIN_HELD_OUT in measured.sets for measured in report.models.values())
    utility_set = RETAIN_HELD_OUT if has_held_out else RETAIN
    for metric in dict.fromkeys((choose_main_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        if METRIC_CATALOG[metric].high != 1:
            continue
        points = []
        for model, measured in report.models.items():
            forget, retain = _get_value(measured, FORGET, metric), _get_value(measured, utility_set, metric)
            if forget and retain and forget.value is not None and retain.value is not None:
                x_interval = forget.interval and (1 - forget.interval[1], 1 - forget.interval[0])
                points.append(ScatterPoint(model, 1 - forget.value, retain.value, x_interval, retain.interval))
        if len(points) > 1:
            title = get_metric_title(metric).lower()
            return ScatterChart(
                "Forgetting against utility",
                tuple(points),
                x_title=f"Forgetting: 1 − {title}, forget set",
                y_title=f"Utility: {title}, {get_set_title(utility_set).lower()}",
                note="Better models are farther up and to the right. Lines at a point are its intervals.",
            )
    return None


def _make_tofu_scatter(report: Report) -> ScatterChart | None:
    points = []
    for model, measured in report.models.items():
        quality, utility = _get_value(measured, FORGET, "forget_quality"), _get_value(measured, ALL, "model_utility")
        if quality and utility and quality.value is not None and utility.value is not None:
            points.append(ScatterPoint(model, quality.value, utility.value, None, utility.interval))
        elif model == RETRAINED and utility and utility.value is not None:
            points.append(ScatterPoint(model, 1.0, utility.value, None, utility.interval))
    if len(points) < 2 or {point.model for point in points} == {RETRAINED}:
        return None
    return ScatterChart(
        "Forgetting against utility, by TOFU's metrics",
        tuple(points),
        x_title="Forget quality (p-value)",
        y_title="Model utility",
        note="To the right of the dotted line (p = 0.05) the test does not distinguish a model's truth ratios from the "
        "retrained model's, whose own p-value is 1 by definition.",
        is_p_value=True,
    )


def make_distribution_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[str, str, Markup]]:
    """Yield title, explanation and chart of each distribution: the truth ratio, then each membership score."""
    models = report.models.items()
    ratios = [ModelDistribution(model, _get_rows(measured, FORGET, "truth_ratio")) for model, measured in models]
    if ratios := [distribution for distribution in ratios if distribution.values]:
        title = "Truth ratio of the rows of the forget set"
        note = "Near 1 the model no longer prefers right answers to wrong ones. The triangle is the median."
        yield title, note, draw_distribution_chart("distribution-truth", title, ratios, styles)
    for metric, auc in AUC_BY_MEMBERSHIP_SCORE.items():
        scores = [_make_membership_distribution(model, measured, metric, auc) for model, measured in models]
        if scores := [distribution for distribution in scores if distribution.values and distribution.holdout_values]:
            title = f"{get_metric_title(metric)}: forget rows above, unseen rows below"
            note = "The more similar the two shapes, the less the score shows which rows were in the training data."
            yield title, note, draw_distribution_chart(f"distribution-{metric}", title, scores, styles)


def _make_membership_distribution(model: str, measured: ModelMeasurements, metric: str, auc: str) -> ModelDistribution:
    value = _get_value(measured, FORGET, auc)
    remark = f"AUC {format_number(value.value)}" if value and value.value is not None else ""
    return ModelDistribution(model, _get_rows(measured, FORGET, metric), _get_rows(measured, HOLDOUT, metric), remark)


def make_attack_chart(report: Report, styles: MarkerStyles) -> tuple[str, Markup] | None:
    """Return title and chart of what attacks reveal of the forget set. The base model is a line, not a row."""
    for metric in dict.fromkeys((choose_main_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        effects_by_attack: dict[str, Sequence[AttackEffect]] = {}
        base_values = []
        for attack in report.attacks:
            for row in make_attack_rows(report, attack):
                if (row.set, row.metric) != (FORGET, metric):
                    continue
                if effects := _make_attack_effects(report, row):
                    effects_by_attack[get_attack_title(attack)] = effects
                base = attack.baseline.get(BASE, {}).get(FORGET, {}).get(metric)
                base_values += [base.value] if base and base.value is not None else []
        if effects_by_attack and METRIC_CATALOG[metric].high == 1:
            base_value = sum(base_values) / len(base_values) if base_values else None
            title = f"{get_metric_title(metric)} on the forget set"
            return title, draw_attack_chart("attacks", title, effects_by_attack, styles, base_value=base_value)
    return None


def _make_attack_effects(report: Report, row: AttackRow) -> list[AttackEffect]:
    return [
        AttackEffect(model, cell.baseline.value, cell.attacked.value, cell.attacked.interval)
        for model, cell in zip(report.models, row.cells, strict=True)
        if model != BASE and cell and cell.baseline and cell.attacked
        if cell.baseline.value is not None and cell.attacked.value is not None
    ]


def _get_value(measured: ModelMeasurements, set_name: str, metric: str) -> MetricValue | None:
    return measured.sets.get(set_name, {}).get(metric)


def _get_rows(measured: ModelMeasurements, set_name: str, metric: str) -> tuple[float, ...]:
    value = _get_value(measured, set_name, metric)
    return tuple(v for v in (value.per_example or ()) if v is not None) if value else ()
