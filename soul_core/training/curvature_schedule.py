"""When the curvature is estimated again: every so many steps, or as the unclipped fraction asks."""

from typing import Any

#: The authors of Sophia want this share of weights unclipped (arXiv:2305.14342, section 3.1).
HEALTHY_UNCLIPPED_FRACTION = (0.1, 0.5)
#: An adaptive interval stays between `every` divided by this and `every` times this.
MAX_INTERVAL_FACTOR = 4


class CurvatureSchedule:
    """Counts steps from 0. Adaptive: the interval halves once the fraction has left its healthy range since the last
    estimate, and the next one comes at once if it is due by that; it doubles when the fraction stayed inside all along.

    Differs from Sophia, whose interval is fixed.
    """

    def __init__(self, *, every: int, adaptive: bool) -> None:
        self._every, self.is_adaptive = every, adaptive
        self._interval = every
        self._last: int | None = None
        self._next = 0
        self._left = False  # the healthy range, since the last estimate

    @property
    def interval(self) -> int:
        """Steps from the last estimate to the next."""
        return self._interval

    def is_due(self, step: int) -> bool:
        """Say whether `step` begins with a new estimate."""
        return step >= self._next

    def record_estimate(self, step: int) -> None:
        """Note that `step` began with a new estimate."""
        if self.is_adaptive and self._last is not None and not self._left:
            self._interval = min(2 * self._interval, MAX_INTERVAL_FACTOR * self._every)
        self._last, self._left = step, False
        self._next = step + self._interval

    def record_unclipped_fraction(self, unclipped_fraction: float | None) -> None:
        """Note the unclipped fraction of a step."""
        low, high = HEALTHY_UNCLIPPED_FRACTION
        if not self.is_adaptive or self._left or unclipped_fraction is None or low <= unclipped_fraction <= high:
            return
        self._left = True
        self._interval = max(self._interval // 2, self._every // MAX_INTERVAL_FACTOR, 1)
        assert self._last is not None
        self._next = self._last + self._interval

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know, as plain values."""
        return {"interval": self._interval, "last": self._last, "next": self._next, "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self._interval, self._last = state["interval"], state["last"]
        self._next, self._left = state["next"], state["left"]
