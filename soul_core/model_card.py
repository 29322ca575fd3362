"""README.md beside the weights: what was done to the model, what was measured, and what that cannot say. Torch-free."""

import json
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from soul_core.metric_catalogue import CATALOGUE, number
from soul_core.report import MetricValue, Report
from soul_core.report_page import HEADLINES, bound, visible
from soul_core.spec import JUDGED

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def render_card(report: Report) -> str:
    """Return the card: a YAML head that the model hub reads, then plain Markdown."""
    environment = Environment(
        loader=PackageLoader("soul_core", "templates"),
        autoescape=False,  # noqa: S701  Markdown; `text` below escapes what comes from outside
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"yaml": json.dumps, "bound": bound, "text": markdown_text, "cell": _cell}
    is_hub_id = _HUB_ID.fullmatch(report.model.source) is not None
    return environment.get_template("model_card.md.j2").render(
        report=report,
        judged=JUDGED[report.spec.kind],
        headline=HEADLINES[report.verdict],
        base_model=report.model.source if is_hub_id else None,
        title_of=lambda metric: CATALOGUE[metric].title if metric in CATALOGUE else metric,
    )


def markdown_text(text: str) -> str:
    """Escape text from outside so that it stays text, on one line, in Markdown."""
    one_line = " ".join(visible(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#|!~])", r"\\\1", one_line)


def _cell(value: MetricValue | None) -> str:
    if value is None or value.value is None:
        return "not measured"
    interval = f" [{number(value.interval[0])}, {number(value.interval[1])}]" if value.interval else ""
    return number(value.value) + interval
