"""Which charts a report has: planes, distributions and attacks, with the numbers each is drawn from. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_number
from soul_core.rendering.attack_tables import MAIN_METRICS, choose_main_metric, make_attack_rows
from soul_core.rendering.charts import draw_bar_charts, draw_curve
from soul_core.rendering.labels import get_attack_title, get_metric_title, get_set_title
from soul_core.rendering.model_charts import (
    AttackChart,
    DistributionChart,
    ScatterChart,
    ScatterPoint,
    draw_attack_chart,
    draw_distribution_chart,
    draw_scatter_chart,
)
from soul_core.rendering.svg import MarkerStyle
from soul_core.rendering.tables import get_set_values, list_measured_sets
from soul_core.report import MetricValue, ModelMeasurements, Report
from soul_core.spec import ALL, BASE, FORGET, HOLDOUT, JUDGED_MODEL, RETAIN, RETRAINED

_CURVES = {
    "loss": "Total loss",
    "forget_loss": "Forget loss",
    "retain_loss": "Retain loss",
    "grad_norm": "Gradient norm",
    "unclipped_fraction": "Unclipped fraction (Sophia)",
    "lr": "Learning rate",
}
MarkerStyles = Mapping[str, MarkerStyle]
_TRUTH_RATIO, _FORGET_QUALITY, _UTILITY = "truth_ratio", "forget_quality", "model_utility"
#: Row metric -> the AUC made of it, of all scores that tell members by forget and holdout rows.
AUC_BY_MEMBERSHIP_SCORE = {
    entry.inputs[0][1]: entry.name
    for entry in METRIC_CATALOG.values()
    if entry.scope == "model" and entry.unit == "AUC" and {name for name, _ in entry.inputs} == {FORGET, HOLDOUT}
}
#: Everything that is made of forget and holdout rows.
_ABOUT_MEMBERS = {entry.name for entry in METRIC_CATALOG.values() if HOLDOUT in dict(entry.inputs)}


def make_training_curves(report: Report) -> Iterator[tuple[str, Markup]]:
    """Yield title and chart of each curve of the run, the known ones first."""
    known = [name for name in _CURVES if name in report.run.curves]
    for name in known + [name for name in report.run.curves if name not in _CURVES]:
        title = _CURVES.get(name, name.replace("_", " ").capitalize())
        if chart := draw_curve(name, title, report.run.curves[name]):
            yield title, chart


def make_bar_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[str, list[Markup]]]:
    """Yield title and charts of each set's metrics, what tells of membership apart.

    Mere scores that membership is told by are drawn as distributions instead.
    """
    told_apart = {*AUC_BY_MEMBERSHIP_SCORE, *_ABOUT_MEMBERS}
    for name in list_measured_sets(report):
        answers = {
            m: {k: v for k, v in of.items() if k not in told_apart} for m, of in get_set_values(report, name).items()
        }
        if charts := draw_bar_charts(name, answers, styles):
            yield get_set_title(name), charts
    for name in list_measured_sets(report):
        members = {
            m: {k: v for k, v in of.items() if k in _ABOUT_MEMBERS} for m, of in get_set_values(report, name).items()
        }
        if charts := draw_bar_charts(f"{name}-members", members, styles):
            yield f"{get_set_title(name)}: membership", charts


def make_scatter_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[ScatterChart, Markup]]:
    """Yield forgetting against utility: by answers, and by TOFU's two numbers where they were measured."""
    drawn = [plane for plane in (_plane_of_answers(report), _plane_of_tofu(report)) if plane]
    for i, plane in enumerate(drawn):
        judged = JUDGED_MODEL[report.spec.kind]
        yield plane, draw_scatter_chart(f"plane-{i}", plane, styles, start=BASE, end=judged, goal=RETRAINED)


def make_distribution_charts(report: Report, styles: MarkerStyles) -> Iterator[tuple[str, str, Markup]]:
    """Yield title, what it shows and chart of each distribution: truth ratio, then each membership score."""
    ratios = [DistributionChart(model, _rows(m, FORGET, _TRUTH_RATIO)) for model, m in report.models.items()]
    if ratios := [spread for spread in ratios if spread.values]:
        title = "Truth ratio of the forget set's rows"
        shows = "Near 1 the model tells right answers from wrong ones no more. The triangle is the median."
        yield title, shows, draw_distribution_chart("spread-truth", title, ratios, styles)
    for metric, auc in AUC_BY_MEMBERSHIP_SCORE.items():
        scores = [_membership(model, m, metric, auc) for model, m in report.models.items()]
        if scores := [spread for spread in scores if spread.values and spread.holdout_values]:
            title = f"{get_metric_title(metric)}: forget rows above, rows never seen below"
            shows = "The more the two shapes agree, the less the score tells who was in the training data."
            yield title, shows, draw_distribution_chart(f"spread-{metric}", title, scores, styles)


def make_attack_chart(report: Report, styles: MarkerStyles) -> tuple[str, Markup] | None:
    """Return metric and chart of what attacks brought out of the forget set; the base is a line, not a row."""
    models = [model for model in report.models if model != BASE]
    for metric in dict.fromkeys((choose_main_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        rows: dict[str, Sequence[AttackChart]] = {}
        befores = []
        for attack in report.attacks:
            for line in make_attack_rows(report, attack):
                if (line.set, line.metric) == (FORGET, metric):
                    cells = dict(zip(report.models, line.cells, strict=True))
                    blows = [
                        AttackChart(model, cell.baseline.value, cell.attacked.value, cell.attacked.interval)
                        for model in models
                        if (cell := cells[model]) and cell.baseline and cell.attacked
                        if cell.baseline.value is not None and cell.attacked.value is not None
                    ]
                    if blows:
                        rows[get_attack_title(attack)] = blows
                    base = attack.baseline.get(BASE, {}).get(FORGET, {}).get(metric)
                    befores += [base.value] if base and base.value is not None else []
        if rows and METRIC_CATALOG[metric].high == 1:
            before = sum(befores) / len(befores) if befores else None
            title = f"{get_metric_title(metric)} on the forget set"
            return title, draw_attack_chart("attacks", title, rows, styles, base_value=before)
    return None


def _plane_of_answers(report: Report) -> ScatterChart | None:
    for metric in dict.fromkeys((choose_main_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        if METRIC_CATALOG[metric].high != 1:
            continue
        points = []
        for model, measured in report.models.items():
            gone, kept = _value(measured, FORGET, metric), _value(measured, RETAIN, metric)
            if gone and kept and gone.value is not None and kept.value is not None:
                across = gone.interval and (1 - gone.interval[1], 1 - gone.interval[0])
                points.append(ScatterPoint(model, 1 - gone.value, kept.value, across, kept.interval))
        if len(points) > 1:
            title = get_metric_title(metric).lower()
            return ScatterChart(
                "Forgetting against utility",
                tuple(points),
                x_title=f"Forgetting: 1 − {title}, forget set",
                y_title=f"Utility: {title}, retain set",
                note="Up and to the right is better. Lines at a point are its intervals.",
            )
    return None


def _plane_of_tofu(report: Report) -> ScatterChart | None:
    points = []
    for model, measured in report.models.items():
        quality, utility = _value(measured, FORGET, _FORGET_QUALITY), _value(measured, ALL, _UTILITY)
        if quality and utility and quality.value is not None and utility.value is not None:
            points.append(ScatterPoint(model, quality.value, utility.value, None, utility.interval))
        elif model == RETRAINED and utility and utility.value is not None:
            points.append(ScatterPoint(model, 1.0, utility.value, None, utility.interval))
    if len(points) < 2 or {point.model for point in points} == {RETRAINED}:
        return None
    return ScatterChart(
        "Forgetting against utility, by TOFU's numbers",
        tuple(points),
        x_title="Forget quality (p-value)",
        y_title="Model utility",
        note="Right of the dotted line (p = 0.05) the truth ratios are not told apart from the retrained model's, "
        "which itself has 1 by definition.",
        is_p_value=True,
    )


def _value(measured: ModelMeasurements, name: str, metric: str) -> MetricValue | None:
    return measured.sets.get(name, {}).get(metric)


def _rows(measured: ModelMeasurements, name: str, metric: str) -> tuple[float, ...]:
    value = _value(measured, name, metric)
    return tuple(v for v in (value.per_example or ()) if v is not None) if value else ()


def _membership(model: str, measured: ModelMeasurements, metric: str, auc: str) -> DistributionChart:
    found = _value(measured, FORGET, auc)
    remark = f"AUC {format_number(found.value)}" if found and found.value is not None else ""
    return DistributionChart(model, _rows(measured, FORGET, metric), _rows(measured, HOLDOUT, metric), remark)
