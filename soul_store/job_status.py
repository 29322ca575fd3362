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


#: Status -> the statuses it may become.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # failed while it waits: its deadline passed, or the job that it waited for failed
    JobStatus.AWAITING_APPROVAL: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED, JobStatus.PAUSED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL_STATUSES = frozenset(status for status in JobStatus if status.is_terminal)


#: What a user may request of a job of each status.
_ACTIONS: dict[JobStatus, tuple[str, ...]] = {
    JobStatus.AWAITING_APPROVAL: ("cancel",),
    JobStatus.QUEUED: ("cancel", "pause"),
    JobStatus.RUNNING: ("cancel", "pause"),
    JobStatus.PAUSED: ("cancel", "resume"),
    JobStatus.SUCCEEDED: (),
    JobStatus.FAILED: ("retry",),
    JobStatus.CANCELLED: ("retry",),
}
#: The same for a running job with a requested action: a pause can be withdrawn, a cancel cannot.
_ACTIONS_AFTER_REQUEST = {"cancel": ("cancel",), "pause": ("cancel", "pause", "resume")}


def list_allowed_actions(status: JobStatus, requested_action: str | None = None) -> tuple[str, ...]:
    """Return what a user may request of a job of this status, whose requested action is not complete yet."""
    if status == JobStatus.RUNNING and requested_action is not None:
        return _ACTIONS_AFTER_REQUEST[requested_action]
    return _ACTIONS[status]
