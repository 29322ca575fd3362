"""Aggregation and bootstrap intervals: against scipy, against a calculation by hand, coverage, edge cases."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import bootstrap

from soul_core.catalogue import Aggregate
from soul_core.metrics import aggregate
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval, summarize
from soul_core.metrics.statistics import Floats
from soul_core.report import MetricValue

RESAMPLING = Resampling(num_resamples=200, confidence=0.95, seed=0)
THOUSAND = Resampling(num_resamples=1000, confidence=0.95, seed=0)


def make_skewed_rows(num_rows: int, seed: int = 3) -> list[float]:
    """Return values as a model's answer probabilities after unlearning: most near 0, a few high."""
    return list(np.random.default_rng(seed).beta(0.3, 2.0, num_rows))


def test_a_value_that_is_not_finite_makes_the_metric_absent() -> None:
    result = summarize([1.0, math.nan, None], RESAMPLING)
    assert result == MetricValue(value=None, absent_reason="1 of 3 rows gave a value that is not finite")


def test_one_row_or_no_resamples_give_no_interval() -> None:
    assert summarize([0.3], RESAMPLING).interval is None
    assert summarize([0.3, 0.4], Resampling(num_resamples=0, confidence=0.95, seed=0)).interval is None


@pytest.mark.parametrize(
    ("kind", "statistic"),
    [
        ("mean", lambda x, w, axis: np.average(x, weights=w, axis=axis)),
        ("geometric_mean", lambda x, w, axis: np.exp(np.average(np.log(x), weights=w, axis=axis))),
    ],
)
def test_the_interval_is_scipys_paired_bca_of_values_and_weights(
    kind: Aggregate, statistic: Callable[..., Floats]
) -> None:
    values, weights = make_skewed_rows(40), list(np.random.default_rng(4).integers(1, 30, 40).astype(float))

    ours = summarize(values, THOUSAND, weights=weights, aggregate=kind).interval
    scipys = bootstrap(
        (values, weights), statistic, n_resamples=1000, paired=True, vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval

    assert ours == pytest.approx(tuple(scipys), rel=1e-12)


def test_the_ratio_interval_is_scipys_paired_bca_of_both_models() -> None:
    before, after = make_skewed_rows(40, seed=5), make_skewed_rows(40, seed=6)

    ours = compute_ratio_interval(summarize(after, THOUSAND), summarize(before, THOUSAND), THOUSAND, aggregate="mean")
    scipys = bootstrap(
        (after, before),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        n_resamples=1000,
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval

    assert ours == pytest.approx(tuple(scipys), rel=1e-12)


def test_the_interval_of_a_mean_is_efrons_bca_worked_out_step_by_step() -> None:
    values = [0.0, 0.0, 0.1, 0.0, 0.9, 0.2]
    rng, normal = np.random.default_rng(0), NormalDist()
    means = sorted(float(np.mean([values[i] for i in row])) for row in rng.integers(0, 6, (1000, 6)))
    mean = sum(values) / 6
    below = sum((m < mean) + (m <= mean) for m in means) / 2000  # ties count half
    bias = normal.inv_cdf(below)
    left_out = [(sum(values) - value) / 5 for value in values]
    center = sum(left_out) / 6
    cubes, squares = (sum((center - m) ** power for m in left_out) for power in (3, 2))
    acceleration = cubes / (6 * squares**1.5)

    def find_level(tail: float) -> float:
        shifted = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + shifted / (1 - acceleration * shifted))

    expected = tuple(float(np.quantile(means, find_level(tail))) for tail in (0.025, 0.975))

    assert summarize(values, THOUSAND).interval == pytest.approx(expected, rel=1e-9)
    assert acceleration > 0.1  # skewed: the interval reaches farther up than a percentile interval
    assert expected[1] > float(np.quantile(means, 0.975))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = make_skewed_rows(30)
    first, again, other = (summarize(values, Resampling(200, 0.95, seed)).interval for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_rows_that_all_agree_have_the_percentile_interval_without_width() -> None:
    assert summarize([0.25] * 10, RESAMPLING).interval == (0.25, 0.25)


def test_more_rows_than_bca_can_pay_for_have_the_percentile_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = make_skewed_rows(30)
    bca = summarize(values, RESAMPLING).interval
    rng = np.random.default_rng(RESAMPLING.seed)
    means = np.array(values)[rng.integers(0, 30, (200, 30))].mean(axis=1)
    monkeypatch.setattr(aggregate, "MAX_BCA_ROWS", 29)

    percentile = summarize(values, RESAMPLING).interval

    assert percentile == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert percentile != bca


@pytest.mark.parametrize("draw", [lambda rng: rng.random(40), lambda rng: rng.beta(0.5, 0.5, 40)])
def test_the_interval_covers_the_mean_as_often_as_its_level_claims(
    draw: Callable[[np.random.Generator], Floats],
) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        interval = summarize(list(draw(rng)), Resampling(num_resamples=300, confidence=0.9, seed=trial)).interval
        assert interval is not None
        covered += interval[0] <= 0.5 <= interval[1]
    assert 165 <= covered <= 195


def test_on_skewed_rows_bca_misses_the_mean_less_often_than_percentile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count_misses(trials: int = 300) -> int:
        intervals = (
            summarize(make_skewed_rows(20, seed), Resampling(300, 0.95, seed)).interval for seed in range(trials)
        )
        return sum(not low <= 0.3 / 2.3 <= high for low, high in filter(None, intervals))

    bca = count_misses()
    monkeypatch.setattr(aggregate, "MAX_BCA_ROWS", 0)

    assert bca < count_misses()


def test_pairing_rows_shows_a_steady_ratio_that_unpaired_intervals_hide() -> None:
    base = summarize([0.02 * i for i in range(1, 41)], RESAMPLING)
    model = summarize([0.019 * i for i in range(1, 41)], RESAMPLING)
    ratio = compute_ratio_interval(model, base, RESAMPLING, aggregate="mean")
    assert ratio == (pytest.approx(0.95), pytest.approx(0.95))
    assert model.interval is not None
    assert base.value is not None
    assert model.interval[1] - model.interval[0] > 0.15 * base.value


def test_there_is_no_ratio_if_the_base_may_be_zero_or_the_rows_differ() -> None:
    base = summarize([0.0, 0.0, 0.1], RESAMPLING)
    assert compute_ratio_interval(base, base, RESAMPLING, aggregate="mean") is None
    assert compute_ratio_interval(summarize([0.1], RESAMPLING), base, RESAMPLING, aggregate="mean") is None
    assert compute_ratio_interval(summarize([0.1] * 3, RESAMPLING), base, RESAMPLING, aggregate="mean") is None
