"""report.html: one file that works offline, made from a Report and nothing else. Torch-free.

A model's answers are hostile text: all is escaped, control characters are replaced, and the page forbids scripts.
"""

from functools import cache

from jinja2 import Environment

from soul_core.catalogue import CATALOGUE
from soul_core.rendering.answer_diff import answers_of, compared_with, marked
from soul_core.rendering.attack_tables import attack_lines, ways_of
from soul_core.rendering.chart_data import attack_view, bars_of, curves_of, planes_of, spreads_of
from soul_core.rendering.charts import bound_chart, swatch
from soul_core.rendering.labels import (
    HEADLINES,
    KINDS,
    ROLES,
    back,
    bound,
    conflicting_rows,
    duration,
    headline,
    interval_text,
    size,
    visible,
)
from soul_core.rendering.svg import looks
from soul_core.rendering.tables import (
    flat,
    gaps_of,
    highlights_of,
    in_order,
    judged_of,
    lines_of,
    measured_sets,
    rests_on,
    settings_text,
)
from soul_core.rendering.templating import environment_of
from soul_core.report import Report
from soul_core.spec import JUDGED

__all__ = ["HEADLINES", "bound", "duration", "marked", "render", "size", "visible"]


def render(report: Report) -> str:
    """Return the whole page."""
    report = in_order(report)
    judged = JUDGED[report.spec.kind]
    look = looks(report.models, judged)
    sets = measured_sets(report)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            judged=judged,
            headline=headline(report),
            rests_on=rests_on(report),
            highlights=list(highlights_of(report)),
            criteria=[(one, bound_chart(f"bound-{i}", one)) for i, one in enumerate(judged_of(report))],
            swatches={model: swatch(model, look[model], place) for place, model in enumerate(report.models)},
            planes=list(planes_of(report, look)),
            bars=list(bars_of(report, look)),
            lines={name: lines_of(report, name) for name in sets},
            has_targets=any(CATALOGUE[name].target is not None for name in _metrics_of(report) if name in CATALOGUE),
            glossary=[CATALOGUE[name] for name in _metrics_of(report) if name in CATALOGUE],
            gaps=list(gaps_of(report)),
            spreads=list(spreads_of(report, look)),
            attack_chart=attack_view(report, look),
            attacks=[(a, list(attack_lines(report, a)), ways_of(report, a)) for a in report.attacks],
            answers=answers_of(report),
            compared=compared_with(list(report.models), judged),
            curves=list(curves_of(report)),
            settings=list(flat(report.spec.model_dump(mode="json", exclude={"criteria"}))),
        )
    )


def _metrics_of(report: Report) -> list[str]:
    """Return every metric that has a number somewhere, in the report's order."""
    return list(dict.fromkeys(line.metric for name in measured_sets(report) for line in lines_of(report, name)))


@cache
def _environment() -> Environment:
    environment = environment_of(html=True)
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    environment.filters |= {
        "duration": duration,
        "size": size,
        "back": back,
        "interval": interval_text,
        "settings": settings_text,
        "conflicting": conflicting_rows,
    }
    environment.globals |= {"roles": ROLES, "kinds": KINDS}
    return environment
