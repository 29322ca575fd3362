"""Statistics worked out by hand."""

import numpy as np
import pytest

from soul_core.metrics.statistics import (
    auc,
    harmonic_mean,
    ks_p_value,
    ks_p_value_of_gap,
    resampled_auc,
    resampled_ks_gap,
    resampled_tpr,
    tpr_at_fpr,
)


def test_separable_samples_have_auc_one_equal_ones_a_half() -> None:
    assert auc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auc([1.0, 2.0], [3.0, 4.0]) == 0.0
    assert auc([1.0, 2.0], [1.0, 2.0]) == 0.5


def test_ties_count_half() -> None:
    assert auc([1.0, 2.0], [1.0]) == pytest.approx(0.75)


def test_an_auc_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="at least one"):
        auc([], [1.0])


def test_the_same_sample_is_not_told_apart_and_a_shifted_one_is() -> None:
    sample = [index / 50 for index in range(50)]

    assert ks_p_value(sample, sample) == 1.0
    assert ks_p_value(sample, [value + 0.8 for value in sample]) < 1e-9


def test_tpr_at_one_percent_allows_one_false_alarm_in_a_hundred() -> None:
    negatives = [float(value) for value in range(100)]

    assert tpr_at_fpr([98.5, 98.7, 50.0, 99.5], negatives, fpr=0.01) == 0.75
    assert tpr_at_fpr([98.5, 99.5], negatives, fpr=0.0) == 0.5


def test_a_lost_ability_is_not_made_up_for() -> None:
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
        assert rates[i] == tpr_at_fpr(first[rows[i]], second[others[i]], fpr=0.1)
