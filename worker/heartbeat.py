"""Keeps a job's lease while its task lives, and hears what its owner wishes."""

import logging
import threading
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from soul_store import job_leases
from soul_store.database import transaction

log = logging.getLogger(__name__)

_AWAY_SECONDS = 0.5


class Heartbeat:
    """A thread that beats three times a lease. `lost` once the job is no longer ours: nothing may be written then."""

    def __init__(self, job_id: str, epoch: int, *, lease_seconds: float) -> None:
        self.job_id, self.epoch, self.lease_seconds = job_id, epoch, lease_seconds
        self.is_lease_lost = False
        self.requested_action: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat {job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        usual = pause = min(self.lease_seconds / 3, 2.0)  # a cancel should not wait longer
        while not self._stopped.wait(pause) and not self.is_lease_lost:
            try:
                with transaction() as session:
                    beat = job_leases.heartbeat(session, self.job_id, self.epoch, lease_seconds=self.lease_seconds)
            except SQLAlchemyError as error:
                # While the database is away nobody else can take the job either: go on, it will say who holds it.
                if pause == usual:
                    log.warning("%s: no heartbeat, the database is away (%s)", self.job_id, type(error).__name__)
                pause = min(usual, _AWAY_SECONDS)  # back before the keeper takes lost jobs back
                continue
            self.is_lease_lost, self.requested_action, pause = beat.is_lease_lost, beat.requested_action, usual
