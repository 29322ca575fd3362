"""`python -m worker.maintenance`: sends the outbox, requeues stalled jobs and fails overdue ones."""

import signal
import sys
import threading
import time
from collections.abc import Callable

import structlog
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from soul_core import tracing
from soul_core.log_config import configure_logging
from soul_store import jobs, metrics, workers
from soul_store.database import transaction
from soul_store.outbox import count_waiting_messages, make_broker_client, relay_messages
from soul_store.service_metrics import ServiceCollector
from soul_store.settings import get_settings
from worker import liveness
from worker.celery_app import send_task

log = structlog.stdlib.get_logger(__name__)

_RELAY_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 5.0
_MAX_ROUND_SECONDS = 5.0


class DatabaseAvailability:
    """How long the database has been available without a failure.

    After an outage, running workers need up to a lease period to extend their leases: a lease that expired during the
    outage does not mean that its worker died.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds, self.clock = lease_seconds, clock
        self._since: float | None = None

    def mark_unavailable(self) -> None:
        """Record a failure."""
        self._since = None

    def is_stable(self) -> bool:
        """Record a success. Return whether there was no failure for a complete lease period."""
        if self._since is None:
            self._since = self.clock()
        return self.clock() - self._since >= self.lease_seconds


def run_maintenance(*, requeue_stalled: bool = True) -> None:
    """Send the outbox, requeue stalled jobs, fail overdue ones, and resend messages that the broker has lost."""
    relay_outbox()
    if requeue_stalled:
        with transaction() as session:
            stalled = jobs.requeue_stalled(session, max_attempts=get_settings().max_attempts)
        metrics.JOBS_REQUEUED.inc(len(stalled))
        for job_id in stalled:
            log.warning("job stalled: its worker's lease expired", job_id=job_id)
    with transaction() as session:
        overdue = jobs.fail_overdue(session)
        workers.remove_expired(session)
    for job_id in overdue:
        log.info("job failed: its deadline has passed", job_id=job_id)
    with make_broker_client() as client:
        num_waiting = count_waiting_messages(client)
    with transaction() as session:
        resent = jobs.resend_job_messages(
            session, num_waiting_messages=num_waiting, silent_seconds=get_settings().lease_seconds
        )
    metrics.MESSAGES_RESENT.inc(len(resent))
    for job_id in resent:
        log.info("message resent: the broker may have lost it", job_id=job_id)


def relay_outbox() -> None:
    """Send the outbox."""
    with transaction() as session:
        metrics.MESSAGES_SENT.inc(relay_messages(session, send_task))


def main() -> int:
    """Run until SIGTERM or SIGINT; retry while the database or the broker is unavailable."""
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)
    metrics.REGISTRY.register(ServiceCollector())
    metrics.start_metrics_server(get_settings())
    tracing.start_tracing("soul-maintenance")
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    pause, next_round, is_unavailable = _RELAY_SECONDS, 0.0, False
    availability = DatabaseAvailability(get_settings().lease_seconds)
    while not stop_requested.wait(pause):
        liveness.report("maintenance")
        try:
            if time.monotonic() >= next_round:
                run_maintenance(requeue_stalled=availability.is_stable())
                next_round = time.monotonic() + min(get_settings().lease_seconds / 3, _MAX_ROUND_SECONDS)
                metrics.LAST_ROUND.set_to_current_time()
            else:
                relay_outbox()
        except (SQLAlchemyError, BrokerError, RedisError, OSError) as error:
            if isinstance(error, SQLAlchemyError):
                availability.mark_unavailable()
            metrics.MAINTENANCE_ERRORS.inc()
            if not is_unavailable:
                log.warning("the database or the broker is unavailable; retrying", error=type(error).__name__)
            is_unavailable, pause = True, min(pause * 2, _MAX_PAUSE_SECONDS)
        else:
            if is_unavailable:
                log.info("the database and the broker are available again")
            is_unavailable, pause = False, _RELAY_SECONDS
    liveness.clear("maintenance")
    tracing.stop_tracing()
    return 0


if __name__ == "__main__":
    sys.exit(main())
