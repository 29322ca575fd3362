"""Likelihood metrics on token scores made by hand."""

import math

import pytest

from soul_core.metrics import METRICS
from soul_core.metrics.observed import InferenceResult, TokenScores
from tests.soul_core.metrics.inferences import RESAMPLING, get_row_values, make_scores


def test_probability_is_the_geometric_mean_token_probability() -> None:
    scores = (TokenScores(row=1, nll=(-math.log(0.5), -math.log(0.125)), hits=(True, False), num_end=0),)
    assert get_row_values("probability", InferenceResult(rows=(1,), scores=scores)) == [pytest.approx(0.25)]


def test_exact_memorization_counts_first_choices_but_not_the_end_of_answer() -> None:
    assert get_row_values("exact_memorization", make_scores("1010")) == [0.5]
    assert get_row_values("exact_memorization", make_scores("0001", num_end=1)) == [0.0]


@pytest.mark.parametrize(
    ("hits", "strength"), [("1111", 1.0), ("0111", 0.75), ("1011", 0.5), ("1101", 0.25), ("1110", 0.0), ("0000", 0.0)]
)
def test_extraction_strength_is_the_fraction_completed_exactly_and_reaches_zero(hits: str, strength: float) -> None:
    assert get_row_values("extraction_strength", make_scores(hits)) == [strength]


def test_extraction_strength_does_not_count_the_end_of_answer() -> None:
    assert get_row_values("extraction_strength", make_scores("0001", num_end=1)) == [0.0]
    assert get_row_values("extraction_strength", make_scores("0111", num_end=1)) == [pytest.approx(2 / 3)]


def test_a_row_with_only_the_end_of_answer_has_no_memorization_and_is_not_counted() -> None:
    result = METRICS["exact_memorization"](make_scores("1", "11", num_end=1), RESAMPLING)
    assert result.per_example == (None, 1.0)
    assert result.count == 1


def test_perplexity_weighs_tokens_not_rows() -> None:
    scores = (
        TokenScores(row=1, nll=(1.0,) * 9, hits=(True,) * 9, num_end=0),
        TokenScores(row=2, nll=(6.0,), hits=(True,), num_end=0),
    )
    result = METRICS["perplexity"](InferenceResult(rows=(1, 2), scores=scores), RESAMPLING)
    assert result.value == pytest.approx(math.exp(15 / 10))
    assert result.per_example == (pytest.approx(math.e), pytest.approx(math.exp(6)))


def test_perplexity_of_a_ruined_model_is_finite() -> None:
    result = METRICS["perplexity"](make_scores("00", "00", nll=5000.0), RESAMPLING)
    assert result.value is not None
    assert math.isfinite(result.value)
