"""What each metric is, what it needs and which way is good: the part of the metric tables that needs no torch.

`GET /v1/methods` and the report page read it. Metrics of rows have one function each in `soul_core.metrics.METRICS`,
those made of finished ones in `soul_core.metrics.derived.DERIVED_METRICS`.
"""

from collections.abc import Sequence

from soul_core.catalogue.derived_entries import DERIVED_ENTRIES
from soul_core.catalogue.entry import NEEDS, Aggregate, MetricEntry, Need, Scope
from soul_core.catalogue.row_entries import ROW_ENTRIES
from soul_core.catalogue.text_entries import TEXT_ENTRIES

__all__ = [
    "METRIC_CATALOG",
    "NEEDS",
    "Aggregate",
    "MetricEntry",
    "Need",
    "Scope",
    "select_row_metrics",
]

METRIC_CATALOG: dict[str, MetricEntry] = {
    entry.name: entry for entry in (*ROW_ENTRIES, *TEXT_ENTRIES, *DERIVED_ENTRIES)
}


def select_row_metrics(metrics: Sequence[str], set_name: str) -> tuple[str, ...]:
    """Return the row metrics to take on a set: those named, and those that the other named ones are made of."""
    named = [name for name in metrics if METRIC_CATALOG[name].scope == "row"]
    made_of = [metric for name in metrics for of, metric in METRIC_CATALOG[name].inputs if of == set_name]
    return tuple(dict.fromkeys([*named, *made_of]))
