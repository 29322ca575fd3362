"""`python -m worker.maintenance`: publishes the outbox and requeues stalled jobs."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from soul_store import jobs
from soul_store.database import transaction
from soul_store.outbox import broker, messages_waiting, relay_once
from soul_store.settings import settings

log = logging.getLogger(__name__)

_RELAY_SECONDS = 0.2
_LONGEST_PAUSE = 5.0


class Absence:
    """Since when the database has answered. Behind an absence living workers have a lease's time to beat first: a
    lease that ran out meanwhile is nobody's death.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds, self.clock = lease_seconds, clock
        self._since: float | None = None

    def away(self) -> None:
        """Note that the database did not answer."""
        self._since = None

    def is_past(self) -> bool:
        """Note that it answered, and say whether it has done so for a whole lease."""
        if self._since is None:
            self._since = self.clock()
        return self.clock() - self._since >= self.lease_seconds


def keep_once(*, take_back: bool = True) -> None:
    """Publish what waits; take back jobs whose worker fell silent; send again what the broker forgot."""
    relay()
    if take_back:
        with transaction() as session:
            lost = jobs.requeue_lost(session, max_attempts=settings().max_attempts)
        for job_id in lost:
            log.warning("%s: its worker fell silent; taken back", job_id)
    with broker() as client:
        waiting = messages_waiting(client)
    with transaction() as session:
        forgotten = jobs.resend_queued(session, messages_waiting=waiting, silent_seconds=settings().lease_seconds)
    if forgotten:
        log.info("sent again, the broker may have forgotten them: %s", ", ".join(forgotten))


def relay() -> None:
    """Publish the outbox."""
    with transaction() as session:
        relay_once(session)


def main() -> int:
    """Run until SIGTERM or SIGINT; a server that is away is waited for."""
    logging.basicConfig(
        level=settings().log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    leave = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave.set())
    pause, next_round, away = _RELAY_SECONDS, 0.0, False
    absence = Absence(settings().lease_seconds)
    while not leave.wait(pause):
        try:
            if time.monotonic() >= next_round:
                keep_once(take_back=absence.is_past())
                next_round = time.monotonic() + min(settings().lease_seconds / 3, 5.0)
            else:
                relay()
        except (SQLAlchemyError, BrokerError, RedisError, OSError) as error:
            if isinstance(error, SQLAlchemyError):
                absence.away()
            if not away:
                log.warning("database or broker is away (%s); trying again until it is back", type(error).__name__)
            away, pause = True, min(pause * 2, _LONGEST_PAUSE)
        else:
            if away:
                log.info("database and broker are back")
            away, pause = False, _RELAY_SECONDS
    return 0


if __name__ == "__main__":
    sys.exit(main())
