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
from soul_store.outbox import count_waiting_messages, make_broker_client, relay_once
from soul_store.settings import get_settings

log = logging.getLogger(__name__)

_RELAY_SECONDS = 0.2
_LONGEST_PAUSE = 5.0


class DatabaseAvailability:
    """Since when the database has answered. Behind an absence living workers have a lease's time to beat first: a
    lease that ran out meanwhile is nobody's death.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds, self.clock = lease_seconds, clock
        self._since: float | None = None

    def mark_unavailable(self) -> None:
        """Note that the database did not answer."""
        self._since = None

    def is_stable(self) -> bool:
        """Note that it answered, and say whether it has done so for a whole lease."""
        if self._since is None:
            self._since = self.clock()
        return self.clock() - self._since >= self.lease_seconds


def run_maintenance(*, requeue_stalled: bool = True) -> None:
    """Publish what waits; take back jobs whose worker fell silent; send again what the broker forgot."""
    relay_outbox()
    if requeue_stalled:
        with transaction() as session:
            lost = jobs.requeue_stalled(session, max_attempts=get_settings().max_attempts)
        for job_id in lost:
            log.warning("%s: its worker fell silent; taken back", job_id)
    with make_broker_client() as client:
        waiting = count_waiting_messages(client)
    with transaction() as session:
        forgotten = jobs.resend_job_messages(
            session, num_waiting_messages=waiting, silent_seconds=get_settings().lease_seconds
        )
    if forgotten:
        log.info("sent again, the broker may have forgotten them: %s", ", ".join(forgotten))


def relay_outbox() -> None:
    """Publish the outbox."""
    with transaction() as session:
        relay_once(session)


def main() -> int:
    """Run until SIGTERM or SIGINT; a server that is away is waited for."""
    logging.basicConfig(
        level=get_settings().log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    leave = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leave.set())
    pause, next_round, away = _RELAY_SECONDS, 0.0, False
    absence = DatabaseAvailability(get_settings().lease_seconds)
    while not leave.wait(pause):
        try:
            if time.monotonic() >= next_round:
                run_maintenance(requeue_stalled=absence.is_stable())
                next_round = time.monotonic() + min(get_settings().lease_seconds / 3, 5.0)
            else:
                relay_outbox()
        except (SQLAlchemyError, BrokerError, RedisError, OSError) as error:
            if isinstance(error, SQLAlchemyError):
                absence.mark_unavailable()
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
