"""The thread that keeps a job's lease while the worker runs it, and learns why the job is to stop."""

import contextvars
import threading
from types import TracebackType
from typing import Self

import structlog

from soul_store import job_leases
from soul_store.database import transaction
from soul_store.job_leases import JobLease, LeaseLostError, StopCause
from worker.db_retry import CONNECTION_ERRORS

log = structlog.stdlib.get_logger(__name__)

#: Longest pause between heartbeats: a requested action waits at most this long.
_MAX_PAUSE_SECONDS = 2.0
#: Pause after a failed heartbeat. Short, so that the lease is extended before the maintenance process requeues the job.
_RETRY_SECONDS = 0.5


class Heartbeat:
    """Extends a lease three times per lease period, until the block ends or the lease is lost."""

    def __init__(self, lease: JobLease, *, lease_seconds: float) -> None:
        self.lease, self.lease_seconds = lease, lease_seconds
        self.stop_cause: StopCause | None = None
        self._is_lost = False
        self._last_error: type[Exception] | None = None
        self._stopped = threading.Event()
        # the context adds the job's ids to the thread's log records
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name=f"heartbeat {lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def is_lease_lost(self) -> bool:
        """Whether nothing more may be written. A dead thread extends no lease, so its lease counts as lost."""
        return self._is_lost or not self._thread.is_alive()

    def raise_if_lease_lost(self) -> None:
        """Raise LeaseLostError if nothing more may be written."""
        if self.is_lease_lost:
            raise LeaseLostError(self.lease)

    def _run(self) -> None:
        regular_pause = pause = min(self.lease_seconds / 3, _MAX_PAUSE_SECONDS)
        while not self._stopped.wait(pause) and not self._is_lost:
            pause = regular_pause if self._beat() else min(regular_pause, _RETRY_SECONDS)

    def _beat(self) -> bool:
        """Extend the lease once. Return False if that failed and should be tried again."""
        try:
            with transaction() as session:
                self.stop_cause = job_leases.heartbeat(session, self.lease, lease_seconds=self.lease_seconds)
        except LeaseLostError:
            self._is_lost = True
        except Exception as error:  # must not end the thread: the engine would run on under a lease that expires
            self._log_once(error)
            return False
        self._last_error = None
        return True

    def _log_once(self, error: Exception) -> None:
        """Log the first of a series of equal errors."""
        if type(error) is self._last_error:
            return
        self._last_error = type(error)
        if isinstance(error, CONNECTION_ERRORS):
            # no other worker can claim the job meanwhile; once the database is back, the row tells who holds the lease
            log.warning("heartbeat failed, the database is unavailable; retrying", error=type(error).__name__)
        else:
            log.error("heartbeat failed; retrying", exc_info=error)
