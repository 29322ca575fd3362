"""Statistics worked out by hand, and those of resamples against the plain ones."""

import numpy as np
import pytest

from soul_core.metrics.statistics import (
    Floats,
    auc,
    harmonic_mean,
    ks_p_value,
    ks_p_value_of_gap,
    resampled_auc,
    resampled_ks_gap,
    resampled_tpr,
)


def compute_tpr(positives: list[float], negatives: list[float], *, fpr: float) -> float:
    """Return the statistic of the samples themselves."""
    identity = [np.arange(len(sample))[None] for sample in (positives, negatives)]
    return float(resampled_tpr(np.array(positives), np.array(negatives), *identity, fpr=fpr)[0])


def search_threshold(positives: Floats, negatives: Floats, *, fpr: float) -> float:
    """Return the largest true positive rate of any threshold within the false positive rate, by trying them all."""
    thresholds = [-np.inf, *negatives]
    allowed = [threshold for threshold in thresholds if (negatives > threshold).mean() <= fpr]
    return float((positives > min(allowed)).mean())


def test_separable_samples_have_auc_one_equal_ones_a_half() -> None:
    assert auc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auc([1.0, 2.0], [3.0, 4.0]) == 0.0
    assert auc([1.0, 2.0], [1.0, 2.0]) == 0.5


def test_ties_count_half() -> None:
    assert auc([1.0, 2.0], [1.0]) == pytest.approx(0.75)


def test_an_auc_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="at least one positive and one negative"):
        auc([], [1.0])


def test_ks_gives_p_one_for_the_same_sample_and_near_zero_for_a_shifted_one() -> None:
    sample = [index / 50 for index in range(50)]

    assert ks_p_value(sample, sample) == 1.0
    assert ks_p_value(sample, [value + 0.8 for value in sample]) < 1e-9


def test_tpr_at_one_percent_allows_one_false_positive_in_a_hundred() -> None:
    negatives = [float(value) for value in range(100)]

    assert compute_tpr([98.5, 98.7, 50.0, 99.5], negatives, fpr=0.01) == 0.75
    assert compute_tpr([98.5, 99.5], negatives, fpr=0.0) == 0.5


def test_a_harmonic_mean_is_zero_as_soon_as_one_value_is() -> None:
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([1.0, 1.0, 0.0]) == 0.0


def test_resampled_statistics_equal_the_plain_ones_on_each_resample() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 20, 30).astype(float), rng.integers(3, 23, 30).astype(float)
    rows, others = rng.integers(0, 30, (20, 30)), rng.integers(0, 30, (20, 30))

    gaps = resampled_ks_gap(first, second, rows)
    aucs = resampled_auc(first, second, rows, others)
    rates = resampled_tpr(first, second, rows, others, fpr=0.1)

    for i in range(20):
        assert ks_p_value_of_gap(int(gaps[i]), 30) == pytest.approx(ks_p_value(first[rows[i]], second[rows[i]]))
        assert aucs[i] == pytest.approx(auc(first[rows[i]], second[others[i]]))
        assert rates[i] == search_threshold(first[rows[i]], second[others[i]], fpr=0.1)
