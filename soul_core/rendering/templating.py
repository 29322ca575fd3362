"""What page and card have in common as templates: where they lie, how strict they are, the words they share."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from soul_core.formatting import format_estimate, format_number, format_percent
from soul_core.rendering.labels import (
    VERDICT_SYMBOLS,
    format_bound,
    format_criterion_metric,
    get_attack_title,
    get_metric_title,
    get_set_title,
)
from soul_core.report import MetricValue


def make_environment(*, html: bool) -> Environment:
    """Return the templates' environment. In HTML text is escaped; Markdown's templates escape by their own filter."""
    environment = Environment(
        loader=PackageLoader("soul_core.rendering", "templates"),
        autoescape=html,  # noqa: S701  Markdown is no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bound": format_bound,
        "cell": _format_metric_value,
        "number": format_number,
        "percent": format_percent,
        "subject": format_criterion_metric,
    }
    environment.globals |= {
        "symbols": VERDICT_SYMBOLS,
        "title_of": get_metric_title,
        "title_of_set": get_set_title,
        "title_of_attack": get_attack_title,
    }
    return environment


def _format_metric_value(value: MetricValue | None) -> str:
    return format_estimate(value.value, value.interval) if value else format_estimate(None)
