"""Which charts a report has: planes, distributions and attacks, with the numbers each is drawn from. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from soul_core.catalogue import CATALOGUE, number
from soul_core.rendering.attack_tables import MAIN_METRICS, attack_lines, telling_metric
from soul_core.rendering.charts import bar_charts, curve_chart
from soul_core.rendering.labels import title_of, title_of_attack, title_of_set
from soul_core.rendering.model_charts import Blow, Plane, Point, Spread, attack_chart, plane_chart, spread_chart
from soul_core.rendering.svg import Look
from soul_core.rendering.tables import measured_sets, of_set
from soul_core.report import MetricValue, ModelMeasurements, Report
from soul_core.spec import ALL, BASE, FORGET, HOLDOUT, JUDGED, REFERENCE, RETAIN

_CURVES = {
    "loss": "Total loss",
    "forget_loss": "Forget loss",
    "retain_loss": "Retain loss",
    "grad_norm": "Gradient norm",
    "unclipped_fraction": "Unclipped fraction (Sophia)",
    "lr": "Learning rate",
}
Looks = Mapping[str, Look]
_TRUTH_RATIO, _FORGET_QUALITY, _UTILITY = "truth_ratio", "forget_quality", "model_utility"
#: Row metric -> the AUC made of it, of all scores that tell members by forget and holdout rows.
MEMBERSHIP = {
    entry.rests_on[0][1]: entry.name
    for entry in CATALOGUE.values()
    if entry.scope == "model" and entry.unit == "AUC" and {name for name, _ in entry.rests_on} == {FORGET, HOLDOUT}
}
#: Everything that is made of forget and holdout rows.
_ABOUT_MEMBERS = {entry.name for entry in CATALOGUE.values() if HOLDOUT in dict(entry.rests_on)}


def curves_of(report: Report) -> Iterator[tuple[str, Markup]]:
    """Yield title and chart of each curve of the run, the known ones first."""
    known = [name for name in _CURVES if name in report.run.curves]
    for name in known + [name for name in report.run.curves if name not in _CURVES]:
        title = _CURVES.get(name, name.replace("_", " ").capitalize())
        if chart := curve_chart(name, title, report.run.curves[name]):
            yield title, chart


def bars_of(report: Report, looks: Looks) -> Iterator[tuple[str, list[Markup]]]:
    """Yield title and charts of each set's metrics, what tells of membership apart.

    Mere scores that membership is told by are drawn as distributions instead.
    """
    told_apart = {*MEMBERSHIP, *_ABOUT_MEMBERS}
    for name in measured_sets(report):
        answers = {m: {k: v for k, v in of.items() if k not in told_apart} for m, of in of_set(report, name).items()}
        if charts := bar_charts(name, answers, looks):
            yield title_of_set(name), charts
    for name in measured_sets(report):
        members = {m: {k: v for k, v in of.items() if k in _ABOUT_MEMBERS} for m, of in of_set(report, name).items()}
        if charts := bar_charts(f"{name}-members", members, looks):
            yield f"{title_of_set(name)}: membership", charts


def planes_of(report: Report, looks: Looks) -> Iterator[tuple[Plane, Markup]]:
    """Yield forgetting against utility: by answers, and by TOFU's two numbers where they were measured."""
    drawn = [plane for plane in (_plane_of_answers(report), _plane_of_tofu(report)) if plane]
    for i, plane in enumerate(drawn):
        judged = JUDGED[report.spec.kind]
        yield plane, plane_chart(f"plane-{i}", plane, looks, start=BASE, end=judged, goal=REFERENCE)


def spreads_of(report: Report, looks: Looks) -> Iterator[tuple[str, str, Markup]]:
    """Yield title, what it shows and chart of each distribution: truth ratio, then each membership score."""
    ratios = [Spread(model, _rows(m, FORGET, _TRUTH_RATIO)) for model, m in report.models.items()]
    if ratios := [spread for spread in ratios if spread.values]:
        title = "Truth ratio of the forget set's rows"
        shows = "Near 1 the model tells right answers from wrong ones no more. The triangle is the median."
        yield title, shows, spread_chart("spread-truth", title, ratios, looks)
    for metric, auc in MEMBERSHIP.items():
        scores = [_membership(model, m, metric, auc) for model, m in report.models.items()]
        if scores := [spread for spread in scores if spread.values and spread.others]:
            title = f"{title_of(metric)}: forget rows above, rows never seen below"
            shows = "The more the two shapes agree, the less the score tells who was in the training data."
            yield title, shows, spread_chart(f"spread-{metric}", title, scores, looks)


def attack_view(report: Report, looks: Looks) -> tuple[str, Markup] | None:
    """Return metric and chart of what attacks brought out of the forget set; the base is a line, not a row."""
    models = [model for model in report.models if model != BASE]
    for metric in dict.fromkeys((telling_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        rows: dict[str, Sequence[Blow]] = {}
        befores = []
        for attack in report.attacks:
            for line in attack_lines(report, attack):
                if (line.set, line.metric) == (FORGET, metric):
                    cells = dict(zip(report.models, line.cells, strict=True))
                    blows = [
                        Blow(model, cell.without.value, cell.under.value, cell.under.interval)
                        for model in models
                        if (cell := cells[model]) and cell.without and cell.under
                        if cell.without.value is not None and cell.under.value is not None
                    ]
                    if blows:
                        rows[title_of_attack(attack)] = blows
                    base = attack.without.get(BASE, {}).get(FORGET, {}).get(metric)
                    befores += [base.value] if base and base.value is not None else []
        if rows and CATALOGUE[metric].high == 1:
            before = sum(befores) / len(befores) if befores else None
            title = f"{title_of(metric)} on the forget set"
            return title, attack_chart("attacks", title, rows, looks, before=before)
    return None


def _plane_of_answers(report: Report) -> Plane | None:
    for metric in dict.fromkeys((telling_metric(report, FORGET) or MAIN_METRICS[0], *MAIN_METRICS)):
        if CATALOGUE[metric].high != 1:
            continue
        points = []
        for model, measured in report.models.items():
            gone, kept = _value(measured, FORGET, metric), _value(measured, RETAIN, metric)
            if gone and kept and gone.value is not None and kept.value is not None:
                across = gone.interval and (1 - gone.interval[1], 1 - gone.interval[0])
                points.append(Point(model, 1 - gone.value, kept.value, across, kept.interval))
        if len(points) > 1:
            title = title_of(metric).lower()
            return Plane(
                "Forgetting against utility",
                tuple(points),
                x_title=f"Forgetting: 1 − {title}, forget set",
                y_title=f"Utility: {title}, retain set",
                note="Up and to the right is better. Lines at a point are its intervals.",
            )
    return None


def _plane_of_tofu(report: Report) -> Plane | None:
    points = []
    for model, measured in report.models.items():
        quality, utility = _value(measured, FORGET, _FORGET_QUALITY), _value(measured, ALL, _UTILITY)
        if quality and utility and quality.value is not None and utility.value is not None:
            points.append(Point(model, quality.value, utility.value, None, utility.interval))
        elif model == REFERENCE and utility and utility.value is not None:
            points.append(Point(model, 1.0, utility.value, None, utility.interval))
    if len(points) < 2 or {point.model for point in points} == {REFERENCE}:
        return None
    return Plane(
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


def _membership(model: str, measured: ModelMeasurements, metric: str, auc: str) -> Spread:
    found = _value(measured, FORGET, auc)
    remark = f"AUC {number(found.value)}" if found and found.value is not None else ""
    return Spread(model, _rows(measured, FORGET, metric), _rows(measured, HOLDOUT, metric), remark)
