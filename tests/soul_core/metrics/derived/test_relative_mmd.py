"""The relative three-sample test: by hand, by loops, and its level and power in simulations."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.derived import add_derived_metrics
from soul_core.metrics.derived.relative_mmd import compute_relative_test
from soul_core.metrics.statistics import Floats
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import Evaluation

RESAMPLING = Resampling(num_resamples=50, confidence=0.95, seed=0)
METRICS = ("relative_mmd", "relative_mmd_p")
RNG = np.random.default_rng(8)
BASE, RETRAINED = list(RNG.normal(0.1, 0.05, 40)), list(RNG.normal(3, 0.8, 40))


def make_model(losses: list[float]) -> ModelMeasurements:
    value = summarize(losses, RESAMPLING)
    return ModelMeasurements(sets={"forget": {"loss": value}}, rows={"forget": tuple(range(1, len(losses) + 1))})


def compare(losses: list[float], *, retrained: list[float] | None, base: list[float] | None) -> dict[str, MetricValue]:
    others = [None if values is None else make_model(values) for values in (retrained, base)]
    evaluation = Evaluation(metrics=METRICS, bootstrap=50)
    derived = add_derived_metrics(make_model(losses), others[0], evaluation, 0, base=others[1])
    return {name: derived.sets["forget"][name] for name in METRICS}


def test_the_statistic_equals_a_calculation_by_hand() -> None:
    """All rows are equal: MMD² of 0 and 0 is 0, that of 0 and 1 is 2 - 2 k(0, 1), at a width of (0 + sqrt(1/2)) / 2."""
    zeros, ones = np.zeros(5), np.ones(5)
    distance = 2 - 2 * math.exp(-1 / (2 * 0.125))

    near_retrained, near_base = compute_relative_test(zeros, zeros, ones), compute_relative_test(zeros, ones, zeros)

    assert near_retrained.statistic == pytest.approx(-distance, rel=1e-12)
    assert near_base.statistic == pytest.approx(distance, rel=1e-12)
    assert (near_retrained.p_value, near_base.p_value) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_statistic_and_variance_equal_their_definition_over_pairs_of_rows() -> None:
    model, retrained, base = RNG.normal(0, 1, 7), RNG.normal(1, 1, 7), RNG.normal(-0.5, 2, 7)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    squares = [[(a - b) ** 2 for a in model for b in other] for other in (retrained, base)]
    widths = [math.sqrt(np.median(of_pair) / 2) for of_pair in squares]
    width = sum(widths) / 2

    def k(a: float, b: float) -> float:
        return math.exp(-((a - b) ** 2) / (2 * width**2))

    def h(i: int, j: int) -> float:
        def mmd_part(other: Floats) -> float:
            return k(other[i], other[j]) - k(model[i], other[j]) - k(model[j], other[i])

        return mmd_part(retrained) - mmd_part(base)

    test = compute_relative_test(model, retrained, base)

    statistic = sum(h(i, j) for i, j in pairs) / 42
    row_means = [sum(h(i, j) for j in range(7) if j != i) / 6 for i in range(7)]
    first_order = sum((mean - statistic) ** 2 for mean in row_means) / 6
    second_order = sum(h(i, j) ** 2 for i, j in pairs) / 42 - statistic**2
    assert test.statistic == pytest.approx(statistic, rel=1e-9)
    assert test.standard_error**2 == pytest.approx((4 * 5 * first_order + 2 * second_order) / 42, rel=1e-9)
    assert test.p_value == pytest.approx(norm.sf(statistic / test.standard_error), rel=1e-9)


@pytest.mark.parametrize("row_effect", [0.0, 1.0], ids=["independent samples", "rows in common"])
def test_at_equal_distances_the_test_rejects_about_as_often_as_its_level(row_effect: float) -> None:
    rng = np.random.default_rng(5)
    rejected = [
        compute_relative_test(*(rng.normal(center, 1, 60) + row_effect * row_N for center in (0.0, 1.0, -1.0))).p_value
        < 0.05
        for row_N in rng.normal(0, 1, (400, 60))
    ]
    assert 0.02 <= np.mean(rejected) <= 0.09  # 5% of 400, plus or minus three standard errors and a little


@pytest.mark.parametrize(("to_retrained", "to_base", "rates"), [(1.5, 0.5, (0.85, 1.0)), (0.5, 1.5, (0.0, 0.01))])
def test_a_model_nearer_to_the_base_is_detected_and_only_such_a_model(
    to_retrained: float, to_base: float, rates: tuple[float, float]
) -> None:
    rng = np.random.default_rng(6)
    rejected = [
        compute_relative_test(*(rng.normal(center, 1, 60) for center in (0.0, to_retrained, -to_base))).p_value < 0.05
        for _ in range(200)
    ]
    assert rates[0] <= np.mean(rejected) <= rates[1]


def test_base_and_retrained_model_themselves_are_the_two_extremes() -> None:
    base = compare(BASE, retrained=RETRAINED, base=BASE)
    retrained = compare(RETRAINED, retrained=RETRAINED, base=BASE)
    over_forgotten = compare([loss + 4 for loss in RETRAINED], retrained=RETRAINED, base=BASE)

    assert base["relative_mmd_p"].value == pytest.approx(0, abs=1e-6)
    assert retrained["relative_mmd_p"].value == pytest.approx(1, abs=1e-6)
    assert (base["relative_mmd"].interval or (0, 0))[0] > 0
    assert (retrained["relative_mmd"].interval or (0, 0))[1] < 0
    assert (over_forgotten["relative_mmd"].value or 0) < 0, "beyond the retrained model is not nearer to the base"


def test_the_intervals_contain_their_values_and_repeat_exactly() -> None:
    between = [(a + b) / 2 for a, b in zip(BASE, RETRAINED, strict=True)]

    first = compare(between, retrained=RETRAINED, base=BASE)

    assert first == compare(between, retrained=RETRAINED, base=BASE)
    for value in first.values():
        assert value.value is not None
        assert value.interval is not None
        assert value.interval[0] < value.value < value.interval[1]
        assert value.count == 40


@pytest.mark.parametrize(
    ("retrained", "base", "reason"),
    [
        (None, BASE, "no model retrained without the forget set, nor its log, was given"),
        (RETRAINED, None, "no base model was given to compare with"),
        (RETRAINED[:4], BASE, "the test needs at least 5 rows that all three models have"),
        (BASE, BASE, "the three models do not differ on these rows"),
    ],
)
def test_without_its_inputs_the_test_is_absent_with_the_reason(
    retrained: list[float] | None, base: list[float] | None, reason: str
) -> None:
    losses = [1.0] * 40 if retrained == base else BASE
    others = ([1.0] * 40, [1.0] * 40) if retrained == base else (retrained, base)
    result = compare(losses, retrained=others[0], base=others[1])
    assert {value.absent_reason for value in result.values()} == {reason}
