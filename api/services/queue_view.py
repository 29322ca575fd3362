"""What jobs that wait see of the queue and of the workers: read once for a list of any length."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soul_store import job_queue, workers
from soul_store.database import Session
from soul_store.job_state_machine import make_status_reason
from soul_store.job_status import JobStatus
from soul_store.placement import WorkerDevice, make_needs
from soul_store.settings import get_settings
from soul_store.tables import Job


@dataclass(frozen=True)
class QueueView:
    """The positions of queued jobs by id, and the devices of the workers that claim jobs."""

    positions: Mapping[str, int]
    devices: Sequence[WorkerDevice]

    def find_waiting_reason(self, job: Job) -> dict[str, Any] | None:
        """Return why no worker can hold a queued job, as a `status_reason`. None if one can, or if it is not queued."""
        if job.status != JobStatus.QUEUED:
            return None
        reason = workers.find_waiting_reason(self.devices, make_needs(job.accelerator, job.required_memory_bytes))
        return None if reason is None else make_status_reason(*reason, retryable=True)

    read_at: float = -math.inf

    def shows(self, jobs: Sequence[Job]) -> bool:
        """Return whether the view is recent enough, and has all queued ones of these jobs."""
        is_recent = time.monotonic() - self.read_at < get_settings().queue_view_seconds
        return is_recent and all(job.id in self.positions for job in jobs if job.status == JobStatus.QUEUED)


class _LastView:
    """The newest view of this process: ranking a long queue for every request would cost more than the request."""

    view = QueueView({}, ())


def view_queue(session: Session, jobs: Sequence[Job]) -> QueueView:
    """Return what the queued ones of these jobs see. Without any, nothing is read."""
    if all(job.status != JobStatus.QUEUED for job in jobs):
        return QueueView({}, ())
    if not _LastView.view.shows(jobs):
        positions, devices = job_queue.list_positions(session), workers.list_available(session)
        _LastView.view = QueueView(positions, devices, time.monotonic())
    return _LastView.view
