"""The trust region: shares of the budget, adaptation to what the guard loss did, and a saved state."""

import math

import pytest

from soul_core.training.trust_region import CUT, GROW, MAX_RELATIVE_LR, SHRINK, TrustRegion


class FakeLoss:
    """A guard loss whose values are given."""

    def __init__(self, *values: float) -> None:
        self._values = iter(values)

    def compute_nlls(self) -> list[float]:
        return [next(self._values)]


def make_region(*losses: float) -> TrustRegion:
    return TrustRegion(FakeLoss(*losses), budget=0.1, num_steps=10, weight_rms=100.0)  # type: ignore[arg-type]


def test_a_step_is_predicted_to_spend_its_share_of_the_budget() -> None:
    lr = make_region(2.0).choose_lr(unit_prediction=400.0)
    assert lr**2 * 400.0 == pytest.approx(0.1 / 10)


def test_without_curvature_the_step_is_bounded_by_the_weights() -> None:
    assert [make_region(2.0).choose_lr(value) for value in (0.0, 1e-12)] == [
        100 * MAX_RELATIVE_LR,
        100 * MAX_RELATIVE_LR,
    ]


def never_shorten(factor: float) -> None:
    raise AssertionError(f"shortened to {factor}")


def test_a_rise_below_plan_lengthens_the_next_step_and_one_above_shortens_it() -> None:
    region = make_region(2.0, 2.005, 2.025)  # planned are 0.01 after the first step and 0.02 after the second
    before = region.choose_lr(400.0)
    rises = [region.bound_step(step, never_shorten) for step in (1, 2)]
    assert rises == pytest.approx([0.005, 0.025])
    assert region.choose_lr(400.0) / before == pytest.approx(math.sqrt(GROW * SHRINK))


def test_a_step_that_raises_the_loss_too_far_is_cut_until_it_does_not() -> None:
    region, cuts = make_region(2.0, 2.9, 2.2, 2.015), []
    before = region.choose_lr(400.0)
    assert region.bound_step(1, cuts.append) == pytest.approx(0.015)
    assert cuts == [CUT, CUT]
    assert region.choose_lr(400.0) == pytest.approx(before * CUT**2)


def test_a_step_that_lowers_the_loss_is_never_cut() -> None:
    region = make_region(2.0, 2.015, 2.014)
    rises = [region.bound_step(step, never_shorten) for step in (1, 0)]
    assert rises == pytest.approx([0.015, 0.014])


def test_what_some_rows_gain_pays_for_no_other_row() -> None:
    rows = iter([[2.0, 3.0], [2.01, 1.0]])
    guard = type("Rows", (), {"compute_nlls": lambda _: next(rows)})()
    region = TrustRegion(guard, budget=0.1, num_steps=10, weight_rms=1.0)
    assert region.bound_step(1, never_shorten) == pytest.approx(0.005)


def test_the_budget_is_spent_when_the_rise_reaches_it() -> None:
    region = make_region(2.0, 2.09, 2.11)
    assert [region.bound_step(step, never_shorten) and region.is_spent for step in (9, 10)] == [False, True]


def test_a_restored_state_chooses_the_same_learning_rate() -> None:
    region, other = make_region(2.0, 2.005), make_region(5.0, 2.01)
    region.bound_step(1, never_shorten)
    other.load_state_dict(region.state_dict())
    assert other.choose_lr(400.0) == region.choose_lr(400.0)
    assert other.bound_step(2, never_shorten) == pytest.approx(0.01)
