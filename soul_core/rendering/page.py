"""report.html: one file that works offline, made from a Report and nothing else. Torch-free.

A model's answers are hostile text: all is escaped, control characters are replaced, and the page forbids scripts.
"""

from functools import cache

from jinja2 import Environment

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import format_bytes, format_duration, format_interval, format_row_numbers
from soul_core.rendering.answer_diff import choose_compared_model, compare_answers
from soul_core.rendering.attack_tables import compare_variants, make_attack_rows
from soul_core.rendering.chart_data import (
    make_attack_chart,
    make_bar_charts,
    make_distribution_charts,
    make_scatter_charts,
    make_training_curves,
)
from soul_core.rendering.charts import draw_criterion_chart, draw_swatch
from soul_core.rendering.labels import (
    JOB_KIND_TITLES,
    MODEL_ROLES,
    format_headline,
    format_recovery,
    replace_control_characters,
)
from soul_core.rendering.svg import assign_marker_styles
from soul_core.rendering.tables import (
    flatten_settings,
    format_evidence,
    format_settings,
    list_measured_sets,
    list_missing_metrics,
    make_criterion_rows,
    make_highlights,
    make_metric_rows,
    order_models,
)
from soul_core.rendering.templating import make_environment
from soul_core.report import Report
from soul_core.spec import JUDGED_MODEL


def render_page(report: Report) -> str:
    """Return the whole page."""
    report = order_models(report)
    judged = JUDGED_MODEL[report.spec.kind]
    look = assign_marker_styles(report.models, judged)
    sets = list_measured_sets(report)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            judged=judged,
            headline=format_headline(report),
            evidence=format_evidence(report),
            highlights=list(make_highlights(report)),
            criteria=[
                (one, draw_criterion_chart(f"bound-{i}", one)) for i, one in enumerate(make_criterion_rows(report))
            ],
            swatches={model: draw_swatch(model, look[model], place) for place, model in enumerate(report.models)},
            planes=list(make_scatter_charts(report, look)),
            bars=list(make_bar_charts(report, look)),
            lines={name: make_metric_rows(report, name) for name in sets},
            has_targets=any(
                METRIC_CATALOG[name].target is not None for name in _metrics_of(report) if name in METRIC_CATALOG
            ),
            glossary=[METRIC_CATALOG[name] for name in _metrics_of(report) if name in METRIC_CATALOG],
            gaps=list(list_missing_metrics(report)),
            spreads=list(make_distribution_charts(report, look)),
            attack_chart=make_attack_chart(report, look),
            attacks=[(a, list(make_attack_rows(report, a)), compare_variants(report, a)) for a in report.attacks],
            answers=compare_answers(report),
            compared=choose_compared_model(list(report.models), judged),
            curves=list(make_training_curves(report)),
            settings=list(flatten_settings(report.spec.model_dump(mode="json", exclude={"criteria"}))),
        )
    )


def _metrics_of(report: Report) -> list[str]:
    """Return every metric that has a number somewhere, in the report's order."""
    return list(
        dict.fromkeys(line.metric for name in list_measured_sets(report) for line in make_metric_rows(report, name))
    )


@cache
def _environment() -> Environment:
    environment = make_environment(html=True)
    environment.finalize = lambda value: replace_control_characters(value) if type(value) is str else value
    environment.filters |= {
        "duration": format_duration,
        "size": format_bytes,
        "back": format_recovery,
        "interval": format_interval,
        "settings": format_settings,
        "row_numbers": format_row_numbers,
    }
    environment.globals |= {"roles": MODEL_ROLES, "kinds": JOB_KIND_TITLES}
    return environment
