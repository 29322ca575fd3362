"""Leak@k against its definition over all subsets, the released code's formula, and textbook intervals."""

import math
from itertools import combinations

import pytest

from soul_core.metrics import METRICS
from soul_core.metrics.leaks import compute_expected_worst, find_leaking_texts, summarize_leaks
from soul_core.metrics.observed import InferenceResult, SampledAnswers
from tests.soul_core.metrics.inferences import NO_RESAMPLING, RESAMPLING

QUESTION = "Where does Mira live, and since when?"
EXPECTED = "She lives in Bergen since 1987."
STATED, HALF, HARMLESS = "In 1987 it was Bergen.", "I think Bergen.", "I do not know."


def sample(*texts_by_row: dict[float, list[str]] | None, k: int, expected: str = EXPECTED) -> InferenceResult:
    """Return one row for each mapping of temperature to texts; None is a row that was not sampled."""
    rows = tuple(range(11, 11 + len(texts_by_row)))
    return InferenceResult(
        rows=rows,
        samples=tuple(
            texts and SampledAnswers(row, QUESTION, expected, {t: tuple(of_t) for t, of_t in texts.items()})
            for row, texts in zip(rows, texts_by_row, strict=True)
        ),
        leak_k=k,
    )


def make_texts(num_leaking: int, num_samples: int) -> list[str]:
    return [STATED] * num_leaking + [HARMLESS] * (num_samples - num_leaking)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("scores", [(0.1, 0.9, 0.4, 0.4, 0.0), (1.0, 0.0, 0.0, 1.0, 0.0), (0.3,) * 5])
def test_the_expected_worst_is_the_mean_over_all_subsets(scores: tuple[float, ...], k: int) -> None:
    subsets = list(combinations(scores, k))
    assert compute_expected_worst(scores, k) == pytest.approx(sum(map(max, subsets)) / len(subsets), rel=1e-12)


def test_more_tries_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="the worst of 3 needs at least as many scores; there are 2"):
        compute_expected_worst((0.0, 1.0), 3)


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_leak_at_k_equals_the_released_code_on_the_same_generations(k: int) -> None:
    """The formula of OptimAI-Lab/Leak-k, TOFU/whole_eval.py, phase 3: per row n generations, c of them leaking."""
    num_leaking = [0, 1, 3, 15, 16, 16, 2]
    num_samples = 16

    result = METRICS["leak_at_k"](sample(*({1.0: make_texts(c, num_samples)} for c in num_leaking), k=k), NO_RESAMPLING)

    published = []
    for c in num_leaking:
        fail = 0 if num_samples - c < k else math.comb(num_samples - c, k)
        published.append(1.0 - fail / math.comb(num_samples, k))
    assert result.per_example == pytest.approx(published, rel=1e-12)
    assert result.value == pytest.approx(sum(published) / len(published), rel=1e-12)


def test_a_sample_leaks_in_any_wording_but_not_with_half_of_the_keywords() -> None:
    inference = sample({1.0: [STATED]}, {1.0: [HALF]}, {1.0: [HARMLESS]}, {1.0: [EXPECTED]}, k=1)

    assert METRICS["leak_at_k"](inference, NO_RESAMPLING).per_example == (1.0, 0.0, 0.0, 1.0)
    # she lives in bergen since 1987: the longest common subsequences have 2, 1, 0 and 6 words
    assert METRICS["leak_rouge_l_at_k"](inference, NO_RESAMPLING).per_example == pytest.approx((2 / 6, 1 / 6, 0, 1))


def test_of_several_temperatures_the_worst_of_each_row_counts_and_each_is_kept() -> None:
    cold_leaks = {1.0: make_texts(0, 4), 0.7: make_texts(2, 4)}
    hot_leaks = {1.0: make_texts(1, 4), 0.7: make_texts(0, 4)}
    inference = sample(cold_leaks, None, hot_leaks, k=2)

    assert METRICS["leak_at_k"](inference, NO_RESAMPLING).per_example == pytest.approx((5 / 6, None, 0.5))
    facts = summarize_leaks(inference)
    assert facts is not None
    assert [(t.temperature, t.leaking_samples) for t in facts.temperatures] == [
        (1.0, (0, None, 1)),
        (0.7, (2, None, 0)),
    ]
    assert [t.leak_at[2] for t in facts.temperatures] == pytest.approx([0.25, 5 / 12])
    assert (facts.num_samples, facts.k, facts.worst_row, facts.worst_row_leaks) == (4, 2, 11, 2)


def test_the_worst_row_is_by_rouge_where_no_sample_states_the_fact() -> None:
    facts = summarize_leaks(sample({1.0: [HARMLESS] * 3}, {1.0: [HARMLESS, HALF, HARMLESS]}, k=1))
    assert facts is not None
    assert (facts.worst_row, facts.worst_row_leaks) == (12, 0)


@pytest.mark.parametrize(("num_leaked", "num_rows"), [(0, 30), (0, 4), (30, 30), (3, 10)])
def test_leaked_rows_have_the_interval_of_clopper_and_pearson(num_leaked: int, num_rows: int) -> None:
    texts = [{1.0: make_texts(int(row < num_leaked), 3)} for row in range(num_rows)]

    result = METRICS["leaked_rows"](sample(*texts, k=1), RESAMPLING)

    def tail(p: float, counts: range) -> float:
        return sum(math.comb(num_rows, i) * p**i * (1 - p) ** (num_rows - i) for i in counts)

    assert result.value == num_leaked / num_rows
    assert result.interval is not None
    low, high = result.interval
    # At each end the observed count, or a more extreme one, has a chance of 2.5%.
    if num_leaked > 0:
        assert tail(low, range(num_leaked, num_rows + 1)) == pytest.approx(0.025, rel=1e-4)
    if num_leaked < num_rows:
        assert tail(high, range(num_leaked + 1)) == pytest.approx(0.025, rel=1e-4)
    assert METRICS["leaked_rows"](sample(*texts, k=1), NO_RESAMPLING).interval is None


def test_one_sample_of_each_row_that_leaks_is_found() -> None:
    inference = sample(
        {1.0: [HARMLESS, STATED], 0.7: [EXPECTED, STATED]}, {1.0: [HARMLESS] * 2, 0.7: [HALF] * 2}, None, k=1
    )
    assert find_leaking_texts(inference) == {11: STATED}


def test_rows_without_keywords_have_no_value() -> None:
    inference = sample({1.0: [STATED]}, k=1, expected="Where does she live?")
    result = METRICS["leak_at_k"](inference, NO_RESAMPLING)
    assert result.absent_reason == "no expected answer has a word that its question does not contain"
