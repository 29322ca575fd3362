"""What each metric is, what it needs, and which direction is better: the part of the metric tables without torch.

`GET /v1/methods` and the report page read it. Each metric of rows has one function in `soul_core.metrics.METRICS`, each
metric that is computed from others one in `soul_core.metrics.derived.DERIVED_METRICS`.
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
    """Return the row metrics to measure on a set: those in `metrics`, and the inputs of the others in `metrics`.

    Sampled answers cost the most of all, and mean something only where a fact is to be forgotten: on forget sets.
    """
    requested = [name for name in metrics if METRIC_CATALOG[name].scope == "row"]
    inputs = [metric for name in metrics for input_set, metric in METRIC_CATALOG[name].inputs if input_set == set_name]
    is_sampled = set_name == "forget" or set_name.startswith("prior_forget_")
    return tuple(
        name for name in dict.fromkeys([*requested, *inputs]) if is_sampled or not METRIC_CATALOG[name].needs_samples
    )
