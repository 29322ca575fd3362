"""Utility at equal forgetting: interpolation by hand, and the interval of a paired difference."""

import numpy as np
import pytest

from bench.frontier import Course, compare, find_utilities


def make_course(forget: list[float], unseen: list[float], *, noise: float = 0.0, seed: int = 0) -> Course:
    rng = np.random.default_rng(seed)
    values = [np.array(column)[:, None] + noise * rng.standard_normal((1, 20)) for column in (forget, unseen)]
    return Course(*values)


def test_utility_is_interpolated_where_forgetting_reaches_the_target() -> None:
    # the target 0.25 of 0.8 is 0.2, a third of the way from 0.3 to 0.0; kept is 0.9 - 0.3 / 3 there, of 1.0
    assert find_utilities([make_course([0.8, 0.3, 0.0], [1.0, 0.9, 0.6])], 0.25) == [pytest.approx(0.8)]


def test_a_run_that_never_reaches_the_target_has_no_utility() -> None:
    assert find_utilities([make_course([0.8, 0.7], [1.0, 1.0])], 0.25) == [None]


def test_a_run_without_the_target_has_no_difference() -> None:
    reaches, fails = make_course([0.8, 0.1], [1.0, 0.9]), make_course([0.8, 0.7], [1.0, 1.0])
    assert compare([reaches], [fails], 0.25).value is None


def test_the_same_courses_differ_by_zero() -> None:
    course = make_course([0.8, 0.1], [1.0, 0.9], noise=0.05)
    assert compare([course], [course], 0.25).excludes_zero is False


def test_noise_that_rows_share_does_not_hide_a_difference() -> None:
    better, worse = (make_course([0.8, 0.1], [1.0, utility], noise=0.1) for utility in (0.9, 0.85))
    difference = compare([better, better], [worse, worse], 0.25)
    assert difference.excludes_zero
    assert difference.value is not None
    assert difference.value > 0
