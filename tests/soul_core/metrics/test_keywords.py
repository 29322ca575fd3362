"""Keyword recall on answers made by hand."""

import pytest

from soul_core.metrics import METRICS
from tests.soul_core.metrics.inferences import NO_RESAMPLING, get_row_values, make_answers


def test_keyword_recall_judges_the_fact_and_not_the_template() -> None:
    pairs = [
        ("The capital of France is Paris.", "The capital of France is Rome."),
        ("The capital of France is Paris.", "It's PARIS!"),
        ("It lies on the Seine, in the north.", "North, at a river."),
        ("France is a capital.", "anything"),
        ("It is 東京", "東京です"),
        None,
    ]

    recall = get_row_values("keyword_recall", make_answers(*pairs, prompt="What is the capital of France?"))
    rouge = get_row_values("rouge_l", make_answers(pairs[0]))

    assert recall == [0.0, 1.0, pytest.approx(1 / 3), None, 1.0, None]
    assert rouge == [pytest.approx(5 / 6)]


def test_keyword_recall_without_any_keyword_is_absent() -> None:
    result = METRICS["keyword_recall"](make_answers(("the capital", "x"), prompt="Which capital?"), NO_RESAMPLING)
    assert result.value is None
    assert "question" in (result.absent_reason or "")
