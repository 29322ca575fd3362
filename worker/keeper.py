"""`python -m worker.keeper`: publishes the outbox and takes back lost jobs. Rows lead; the broker may lose anything."""

import logging
import signal
import sys
import threading
import time

from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from api.store import jobs
from api.store.database import transaction
from api.store.queue import broker, messages_waiting, relay_once
from api.store.settings import settings

log = logging.getLogger(__name__)

_RELAY_SECONDS = 0.2
_LONGEST_PAUSE = 5.0


def keep_once() -> None:
    """Publish what waits; take back jobs whose worker fell silent; send again what the broker forgot."""
    relay()
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
    while not leave.wait(pause):
        try:
            if time.monotonic() >= next_round:
                keep_once()
                next_round = time.monotonic() + min(settings().lease_seconds / 3, 5.0)
            else:
                relay()
        except (SQLAlchemyError, BrokerError, RedisError, OSError) as error:
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
