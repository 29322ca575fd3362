"""What page and card have in common as templates: where they lie, how strict they are, the words they share."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from soul_core.catalogue import number
from soul_core.rendering.labels import (
    SYMBOLS,
    bound,
    cell_text,
    criterion_subject,
    percent,
    title_of,
    title_of_attack,
    title_of_set,
)


def environment_of(*, html: bool) -> Environment:
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
        "bound": bound,
        "cell": cell_text,
        "number": number,
        "percent": percent,
        "subject": criterion_subject,
    }
    environment.globals |= {
        "symbols": SYMBOLS,
        "title_of": title_of,
        "title_of_set": title_of_set,
        "title_of_attack": title_of_attack,
    }
    return environment
