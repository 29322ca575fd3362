"""When the curvature is estimated again: after a fixed number of steps, or adaptively by the unclipped fraction."""

from typing import Any

#: The authors of Sophia recommend that this fraction of the weights is not clipped (arXiv:2305.14342, section 3.1).
HEALTHY_UNCLIPPED_FRACTION = (0.1, 0.5)
#: An adaptive interval stays between `every` divided by this and `every` times this.
MAX_INTERVAL_FACTOR = 4


class CurvatureSchedule:
    """Decides at which steps, counted from 0, the curvature is estimated.

    Adaptive: the interval halves when the unclipped fraction leaves its healthy range for the first time since the last
    estimate, and the next estimate follows at once if it is due by the shorter interval. The interval doubles after an
    interval in which the fraction stayed inside.

    Differs from Sophia, whose interval is fixed.
    """

    def __init__(self, *, every: int, adaptive: bool) -> None:
        self._every, self.is_adaptive = every, adaptive
        self._interval = every
        self._last: int | None = None
        self._next = 0
        self._has_left_range = False  # since the last estimate

    @property
    def interval(self) -> int:
        """Steps from the last estimate to the next."""
        return self._interval

    def is_due(self, step: int) -> bool:
        """Return whether `step` begins with a new estimate."""
        return step >= self._next

    def record_estimate(self, step: int) -> None:
        """Note that `step` began with a new estimate."""
        if self.is_adaptive and self._last is not None and not self._has_left_range:
            self._interval = min(2 * self._interval, MAX_INTERVAL_FACTOR * self._every)
        self._last, self._has_left_range = step, False
        self._next = step + self._interval

    def record_unclipped_fraction(self, unclipped_fraction: float | None) -> None:
        """Note the unclipped fraction of a step."""
        if not self.is_adaptive or self._has_left_range or unclipped_fraction is None:
            return
        low, high = HEALTHY_UNCLIPPED_FRACTION
        if low <= unclipped_fraction <= high:
            return
        self._has_left_range = True
        self._interval = max(self._interval // 2, self._every // MAX_INTERVAL_FACTOR, 1)
        assert self._last is not None
        self._next = self._last + self._interval

    def state_dict(self) -> dict[str, Any]:
        """Return the interval and the steps of the last and the next estimate."""
        return {
            "interval": self._interval,
            "last": self._last,
            "next": self._next,
            "has_left_range": self._has_left_range,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the schedule of a saved run."""
        self._interval, self._last = state_dict["interval"], state_dict["last"]
        self._next, self._has_left_range = state_dict["next"], state_dict["has_left_range"]
