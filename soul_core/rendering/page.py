"""report.html: one file that works offline, made from a Report and nothing else. Torch-free.

A model's answers are hostile text: everything is escaped, control characters are replaced, and the page forbids
scripts.
"""

from functools import cache

from jinja2 import Environment

from soul_core.catalogue import METRIC_CATALOG
from soul_core.formatting import (
    format_bytes,
    format_duration,
    format_interval,
    format_row_numbers,
    replace_control_characters,
)
from soul_core.rendering.answer_diff import choose_compared_model, compare_answers
from soul_core.rendering.attack_tables import compare_variants, format_recovered_fraction, make_attack_rows
from soul_core.rendering.chart_data import (
    make_attack_chart,
    make_bar_charts,
    make_distribution_charts,
    make_scatter_charts,
    make_training_curves,
)
from soul_core.rendering.charts import draw_criterion_chart, draw_swatch
from soul_core.rendering.labels import MODEL_ROLES, get_headline
from soul_core.rendering.leak_table import format_leak_sentences, make_leak_rows
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
    """Return the complete page."""
    report = order_models(report)
    judged = JUDGED_MODEL[report.spec.kind]
    styles = assign_marker_styles(report.models, judged)
    metric_rows = {name: make_metric_rows(report, name) for name in list_measured_sets(report)}
    metrics = dict.fromkeys(row.metric for rows in metric_rows.values() for row in rows)
    entries = [METRIC_CATALOG[metric] for metric in metrics if metric in METRIC_CATALOG]
    return (
        _make_page_environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=get_headline(report),
            evidence=format_evidence(report),
            highlights=list(make_highlights(report)),
            criteria=[
                (row, draw_criterion_chart(f"bound-{i}", row)) for i, row in enumerate(make_criterion_rows(report))
            ],
            swatches={model: draw_swatch(model, styles[model], i) for i, model in enumerate(report.models)},
            scatter_charts=list(make_scatter_charts(report, styles)),
            bar_charts=list(make_bar_charts(report, styles)),
            metric_rows=metric_rows,
            has_targets=any(entry.target is not None for entry in entries),
            metric_entries=entries,
            leak_rows=make_leak_rows(report),
            leak_sentences=list(format_leak_sentences(report)),
            missing_metrics=list(list_missing_metrics(report)),
            distribution_charts=list(make_distribution_charts(report, styles)),
            attack_chart=make_attack_chart(report, styles),
            attacks=[
                (attack, list(make_attack_rows(report, attack)), *compare_variants(report, attack))
                for attack in report.attacks
            ],
            answers=compare_answers(report),
            compared_model=choose_compared_model(list(report.models), judged),
            curves=list(make_training_curves(report)),
            settings=list(flatten_settings(report.spec.model_dump(mode="json", exclude={"criteria"}))),
        )
    )


@cache
def _make_page_environment() -> Environment:
    environment = make_environment(is_html=True)
    environment.finalize = lambda value: replace_control_characters(value) if type(value) is str else value
    environment.filters |= {
        "bytes": format_bytes,
        "duration": format_duration,
        "interval": format_interval,
        "recovered": format_recovered_fraction,
        "row_numbers": format_row_numbers,
        "settings": format_settings,
    }
    environment.globals |= {"model_roles": MODEL_ROLES}
    return environment
