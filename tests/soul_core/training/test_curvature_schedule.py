"""When curvature is estimated again."""

import pytest

from soul_core.training.curvature_schedule import CurvatureSchedule


def estimates(refresh: CurvatureSchedule, fractions: list[float | None]) -> list[int]:
    """Return the steps that begin with an estimate."""
    taken = []
    for step, fraction in enumerate(fractions):
        if refresh.is_due(step):
            refresh.record_estimate(step)
            taken.append(step)
        refresh.record_unclipped_fraction(fraction)
    return taken


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, None])
def test_unless_adaptive_it_is_every_k_steps_whatever_is_clipped(fraction: float | None) -> None:
    assert estimates(CurvatureSchedule(every=4, adaptive=False), [fraction] * 13) == [0, 4, 8, 12]


def test_while_the_fraction_is_healthy_the_interval_doubles_up_to_four_times() -> None:
    assert estimates(CurvatureSchedule(every=4, adaptive=True), [0.3] * 60) == [0, 4, 12, 28, 44]


@pytest.mark.parametrize("fraction", [0.01, 0.8])
def test_while_it_is_not_the_interval_halves_down_to_a_quarter(fraction: float) -> None:
    assert estimates(CurvatureSchedule(every=8, adaptive=True), [fraction] * 17) == [0, 4, 6, 8, 10, 12, 14, 16]


def test_leaving_the_healthy_range_brings_the_next_estimate_forward_at_once() -> None:
    fractions: list[float | None] = [0.3] * 6 + [0.9] + [0.3] * 8

    # at step 8 it would have been due; it left at 6, when more than half of the interval of 8 was over
    assert estimates(CurvatureSchedule(every=8, adaptive=True), fractions) == [0, 7, 11]


def test_an_interval_of_one_step_stays_one() -> None:
    assert estimates(CurvatureSchedule(every=1, adaptive=True), [0.9] * 4) == [0, 1, 2, 3]


def test_its_state_goes_on_where_it_was() -> None:
    fractions: list[float | None] = [0.3, 0.9, 0.3, 0.3, 0.3, 0.02] * 8
    straight = CurvatureSchedule(every=6, adaptive=True)
    half = CurvatureSchedule(every=6, adaptive=True)
    for step, fraction in enumerate(fractions):
        for entry in (straight, half):
            if entry.is_due(step):
                entry.record_estimate(step)
            entry.record_unclipped_fraction(fraction)
        half_again = CurvatureSchedule(every=6, adaptive=True)
        half_again.load_state_dict(half.state_dict())
        half = half_again

    assert half.state_dict() == straight.state_dict()
