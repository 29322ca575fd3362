"""The priority that a user gives a job."""

from enum import StrEnum


class JobPriority(StrEnum):
    """How early a queued job runs, from last to first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def level(self) -> int:
        """The priority as a number: a job that waits rises one level per `SOUL_PRIORITY_AGING_SECONDS`."""
        return list(JobPriority).index(self)
