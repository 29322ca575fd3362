"""The steps at which the curvature is estimated."""

import pytest

from soul_core.training.curvature_schedule import CurvatureSchedule


def list_estimates(schedule: CurvatureSchedule, fractions: list[float | None]) -> list[int]:
    """Return the steps that begin with an estimate."""
    steps = []
    for step, fraction in enumerate(fractions):
        if schedule.is_due(step):
            schedule.record_estimate(step)
            steps.append(step)
        schedule.record_unclipped_fraction(fraction)
    return steps


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, None])
def test_unless_adaptive_every_k_steps_begin_with_an_estimate(fraction: float | None) -> None:
    assert list_estimates(CurvatureSchedule(every=4, adaptive=False), [fraction] * 13) == [0, 4, 8, 12]


def test_while_the_fraction_is_healthy_the_interval_doubles_up_to_four_times() -> None:
    assert list_estimates(CurvatureSchedule(every=4, adaptive=True), [0.3] * 60) == [0, 4, 12, 28, 44]


@pytest.mark.parametrize("fraction", [0.01, 0.8])
def test_while_the_fraction_is_unhealthy_the_interval_halves_down_to_a_quarter(fraction: float) -> None:
    assert list_estimates(CurvatureSchedule(every=8, adaptive=True), [fraction] * 17) == [0, 4, 6, 8, 10, 12, 14, 16]


def test_leaving_the_healthy_range_brings_the_next_estimate_forward() -> None:
    fractions: list[float | None] = [0.3] * 6 + [0.9] + [0.3] * 8

    # due at step 8; the fraction leaves at step 6, after more than half of the interval of 8
    assert list_estimates(CurvatureSchedule(every=8, adaptive=True), fractions) == [0, 7, 11]


def test_an_interval_of_one_step_stays_one() -> None:
    assert list_estimates(CurvatureSchedule(every=1, adaptive=True), [0.9] * 4) == [0, 1, 2, 3]


def test_a_restored_schedule_continues() -> None:
    fractions: list[float | None] = [0.3, 0.9, 0.3, 0.3, 0.3, 0.02] * 8
    straight = CurvatureSchedule(every=6, adaptive=True)
    restored = CurvatureSchedule(every=6, adaptive=True)
    for step, fraction in enumerate(fractions):
        for schedule in (straight, restored):
            if schedule.is_due(step):
                schedule.record_estimate(step)
            schedule.record_unclipped_fraction(fraction)
        state = restored.state_dict()
        restored = CurvatureSchedule(every=6, adaptive=True)
        restored.load_state_dict(state)

    assert restored.state_dict() == straight.state_dict()
