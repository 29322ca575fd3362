"""Metrics of this process for Prometheus, on a private port. Their labels are bounded: never an id, never a name.

Every process has all of them; it changes those that concern it. `service_metrics` adds what only the database knows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from sqlalchemy import QueuePool

from soul_store.settings import ProcessSettings

log = structlog.stdlib.get_logger(__name__)

#: A registry of its own: libraries register in the global one.
REGISTRY = CollectorRegistry()
#: The value of a label outside its table of values.
OTHER = "other"

HTTP_REQUESTS = Histogram(
    "soul_http_request_seconds",
    "Duration of requests to the last byte of the response, streams apart.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
HTTP_IN_FLIGHT = Gauge("soul_http_requests_in_flight", "Requests that have no response yet.", registry=REGISTRY)
HTTP_STREAMS = Gauge("soul_http_streams_open", "Open streams of server-sent events.", registry=REGISTRY)
UPLOADED_BYTES = Counter("soul_http_upload_bytes", "Bytes of received request bodies.", ["route"], registry=REGISTRY)

POOL_WAITS = Histogram(
    "soul_database_pool_wait_seconds",
    "Time until a connection of the pool was available.",
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 10, 30),
    registry=REGISTRY,
)
POOL_TIMEOUTS = Counter("soul_database_pool_errors", "Connections that the pool could not provide.", registry=REGISTRY)

ATTEMPTS = Counter(
    "soul_attempts_ended",
    "Attempts of jobs that ended on this worker, by the job's next status and the code of the reason.",
    ["status", "code"],
    registry=REGISTRY,
)
ENGINE_SECONDS = Counter("soul_engine_seconds", "Seconds that engines ran on this worker.", registry=REGISTRY)
GPU_SECONDS = Counter("soul_gpu_seconds", "Seconds that engines ran on a GPU of this worker.", registry=REGISTRY)
LEASES_LOST = Counter("soul_leases_lost", "Attempts that lost their lease on this worker.", registry=REGISTRY)
RUNNING_ATTEMPTS = Gauge("soul_attempts_running", "Attempts that run on this worker now.", registry=REGISTRY)

JOBS_REQUEUED = Counter("soul_jobs_stalled", "Jobs whose lease expired: their worker vanished.", registry=REGISTRY)
MESSAGES_SENT = Counter("soul_outbox_messages_sent", "Messages sent to the broker.", registry=REGISTRY)
MESSAGES_RESENT = Counter("soul_messages_resent", "Messages that the broker may have lost.", registry=REGISTRY)
MAINTENANCE_ERRORS = Counter(
    "soul_maintenance_errors", "Rounds that failed because a server was unavailable.", registry=REGISTRY
)
LAST_ROUND = Gauge(
    "soul_maintenance_last_round_timestamp_seconds", "Time of the last complete round.", registry=REGISTRY
)


class MeasuredPool(QueuePool):
    """A connection pool that measures how long its callers wait."""

    def connect(self) -> Any:
        """Return a connection, and record how long that took."""
        started_at = time.monotonic()
        try:
            return super().connect()
        except Exception:
            POOL_TIMEOUTS.inc()
            raise
        finally:
            POOL_WAITS.observe(time.monotonic() - started_at)


@contextmanager
def count_attempt() -> Iterator[None]:
    """Count an attempt as running while the block runs."""
    with RUNNING_ATTEMPTS.track_inprogress():
        yield


def start_metrics_server(settings: ProcessSettings, *, port_offset: int = 0) -> int | None:
    """Serve the metrics on the private port until the process ends. Return the port; None if it is off or taken.

    A second process with the same port logs a warning: its metrics would mix with those of the first.
    """
    if settings.metrics_port == 0:
        return None
    port = settings.metrics_port + port_offset
    try:
        start_http_server(port, addr=settings.metrics_host, registry=REGISTRY)
    except OSError as error:
        log.warning("metrics are not served", host=settings.metrics_host, port=port, error=error.strerror)
        return None
    log.info("metrics are served", host=settings.metrics_host, port=port)
    return port
