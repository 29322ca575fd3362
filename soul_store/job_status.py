"""The statuses of a job, and what may follow each. `job_state_machine` changes them.

Apart from the queries, because the tables name the statuses in their constraints.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    """The state of a job's execution. What the job achieved is its verdict."""

    AWAITING_APPROVAL = "awaiting_approval"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether no other status can follow."""
        return not TRANSITIONS[self]

    @property
    def allowed_actions(self) -> tuple[str, ...]:
        """What a user may request of a job of this status."""
        return () if self.is_terminal else ("cancel",)


#: Status -> the statuses it may become.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.AWAITING_APPROVAL: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    # failed: the job it waited for failed
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED, JobStatus.PAUSED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL_STATUSES = frozenset(status for status in JobStatus if status.is_terminal)
