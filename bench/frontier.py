"""Utility at equal forgetting: a run's course through the plane of forgetting and utility, and the paired bootstrap of
the difference between two methods.

Shapes: T measured points of a run, the base model first; R rows of a set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Course:
    """The values of every row at each measured point of one run."""

    forget_TR: np.ndarray
    kept_TR: np.ndarray

    def find_utility(self, target: float, forget_rows: np.ndarray, kept_rows: np.ndarray) -> float | None:
        """Return the kept rows' mean, relative to the base model's, where the forget rows' first falls to `target`
        times the base model's; None if it never does. Between two points the course is a straight line.
        """
        forget_T = self.forget_TR[:, forget_rows].mean(axis=1)
        kept_T = self.kept_TR[:, kept_rows].mean(axis=1)
        below = np.flatnonzero(forget_T <= target * forget_T[0])
        if not len(below):
            return None
        last = int(below[0])
        span = forget_T[last - 1] - forget_T[last]
        part = (forget_T[last - 1] - target * forget_T[0]) / span if span > 0 else 1.0
        return float((kept_T[last - 1] + part * (kept_T[last] - kept_T[last - 1])) / kept_T[0])


@dataclass(frozen=True)
class Difference:
    """How far the first method is ahead at equal forgetting: mean over seeds, with a 95% interval over rows."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def find_utilities(courses: Sequence[Course], target: float) -> list[float | None]:
    """Return each run's utility at the target, over all its rows."""
    return [course.find_utility(target, *_all_rows(course)) for course in courses]


def compare(
    first: Sequence[Course], second: Sequence[Course], target: float, *, num_resamples: int = 2000, seed: int = 0
) -> Difference:
    """Return the difference of the mean utilities of two methods, one course per seed, on the same rows.

    The rows are resampled together for both methods and all seeds (paired bootstrap, percentile interval). Absent if
    some run never reaches the target.
    """
    value = _subtract(first, second, target, *_all_rows(first[0]))
    if value is None:
        return Difference(None, None, None)
    rng = np.random.default_rng(seed)
    num_forget, num_kept = first[0].forget_TR.shape[1], first[0].kept_TR.shape[1]
    forget_samples = rng.integers(num_forget, size=(num_resamples, num_forget))
    kept_samples = rng.integers(num_kept, size=(num_resamples, num_kept))
    differences = [
        _subtract(first, second, target, forget_rows, kept_rows)
        for forget_rows, kept_rows in zip(forget_samples, kept_samples, strict=True)
    ]
    reached = [difference for difference in differences if difference is not None]
    low, high = np.quantile(reached, [0.025, 0.975])
    return Difference(value, float(low), float(high))


def _subtract(
    first: Sequence[Course], second: Sequence[Course], target: float, forget_rows: np.ndarray, kept_rows: np.ndarray
) -> float | None:
    means = []
    for courses in (first, second):
        utilities = [course.find_utility(target, forget_rows, kept_rows) for course in courses]
        if None in utilities:
            return None
        means.append(float(np.mean([utility for utility in utilities if utility is not None])))
    return means[0] - means[1]


def _all_rows(course: Course) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(course.forget_TR.shape[1]), np.arange(course.kept_TR.shape[1])
