"""The Jinja environment of page and model card: strict, with the titles and formats that both use. Torch-free."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from soul_core.formatting import format_estimate, format_number, format_percent
from soul_core.rendering.labels import (
    JOB_KIND_TITLES,
    VERDICT_SYMBOLS,
    get_attack_title,
    get_bound_title,
    get_criterion_title,
    get_metric_title,
    get_set_title,
)
from soul_core.report import MetricValue


def make_environment(*, is_html: bool) -> Environment:
    """Return an environment. It escapes text in HTML; Markdown templates escape with a filter of their own."""
    environment = Environment(
        loader=PackageLoader("soul_core.rendering", "templates"),
        autoescape=is_html,  # noqa: S701  Markdown is not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "attack_title": get_attack_title,
        "bound_title": get_bound_title,
        "criterion_title": get_criterion_title,
        "estimate": _format_metric_value,
        "metric_title": get_metric_title,
        "number": format_number,
        "percent": format_percent,
        "set_title": get_set_title,
    }
    environment.globals |= {"kind_titles": JOB_KIND_TITLES, "verdict_symbols": VERDICT_SYMBOLS}
    return environment


def _format_metric_value(value: MetricValue | None) -> str:
    return format_estimate(value.value, value.interval) if value else format_estimate(None)
