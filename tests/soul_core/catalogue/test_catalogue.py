"""The catalog of metrics: complete entries, sentences for readers, inputs that exist."""

import pytest

from soul_core.catalogue import METRIC_CATALOG, MetricEntry, select_row_metrics


@pytest.mark.parametrize("entry", METRIC_CATALOG.values(), ids=METRIC_CATALOG)
def test_an_entry_has_a_sentence_a_source_and_known_inputs(entry: MetricEntry) -> None:
    assert entry.description.endswith(".")
    assert entry.source
    assert {metric for _, metric in entry.inputs} <= METRIC_CATALOG.keys()


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        (
            "probability",
            "On the forget set a lower value means more forgotten; on other sets a higher value is better.",
        ),
        ("forget_quality", "On the forget set a higher value means more forgotten."),
        ("model_utility", "A higher value is better."),
        ("privleak", "A model that never saw the forget set has 0."),
        ("mia_min_k", "A model that never saw the forget set has 0.5."),
    ],
)
def test_the_direction_of_a_metric_says_where_it_holds(metric: str, direction: str) -> None:
    assert METRIC_CATALOG[metric].describe_direction() == direction


def test_the_inputs_of_a_metric_are_measured_on_their_own_set() -> None:
    assert select_row_metrics(["rouge_l", "mia_min_k"], "holdout") == ("rouge_l", "min_k")
    assert select_row_metrics(["forget_quality"], "retain") == ()
