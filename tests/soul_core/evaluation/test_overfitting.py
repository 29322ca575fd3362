"""Overfitting of the retain set: trained rows that keep their level while held-out rows lose it."""

import pytest

from soul_core.evaluation.overfitting import find_overfitting
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.report import ModelMeasurements

RESAMPLING = Resampling(num_resamples=400, confidence=0.95, seed=0)
NO_INTERVALS = Resampling(num_resamples=0, confidence=0.95, seed=0)
ROWS = [0.5 + 0.02 * i for i in range(12)]


def measure(retain: list[float], held_out: list[float], metric: str = "probability") -> ModelMeasurements:
    rows = {"retain": retain, "retain_held_out": held_out}
    return ModelMeasurements(
        sets={name: {metric: summarize(values, RESAMPLING)} for name, values in rows.items()},
        rows={name: tuple(range(len(values))) for name, values in rows.items()},
    )


def scale(*factors: float) -> list[float]:
    """Return the rows times the factors, in turn."""
    return [value * factors[i % len(factors)] for i, value in enumerate(ROWS)]


def find(retain: list[float], held_out: list[float], resampling: Resampling = RESAMPLING) -> str | None:
    return find_overfitting(measure(retain, held_out), measure(ROWS, ROWS), resampling)


def test_held_out_rows_that_fall_below_the_retain_set_are_reported_with_a_remedy() -> None:
    sentence = find(scale(1.02), scale(0.8)) or ""

    assert "its probability is 1.02 times the base model's" in sentence
    assert "0.8 [0.8, 0.8] times" in sentence
    assert all(remedy in sentence for remedy in ("more retain rows", "'kl'", "general text", "learning rate"))


@pytest.mark.parametrize(
    ("retain", "held_out"),
    [
        (scale(1.0), scale(0.96)),  # within the margin
        (scale(0.94), scale(0.7)),  # the retain set is damaged too, which its own criteria show
        (scale(1.0), scale(0.5, 1.45)),  # the interval includes the base's level
        (scale(1.3), scale(1.1)),  # both rise
    ],
)
def test_what_is_not_overfitting_is_not_reported(retain: list[float], held_out: list[float]) -> None:
    assert find(retain, held_out) is None


def test_without_intervals_the_values_decide() -> None:
    assert find(scale(1.0), scale(0.5, 1.3), NO_INTERVALS)


def test_one_held_out_row_has_no_interval_and_shows_nothing() -> None:
    assert find_overfitting(measure(ROWS, [0.1]), measure(ROWS, [0.9]), RESAMPLING) is None


def test_recall_shows_it_where_no_probability_was_measured() -> None:
    judged, base = measure(ROWS, scale(0.2), "keyword_recall"), measure(ROWS, ROWS, "keyword_recall")

    assert "its keyword_recall is 1 times" in (find_overfitting(judged, base, RESAMPLING) or "")
