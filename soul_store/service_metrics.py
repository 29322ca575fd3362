"""Metrics that only the database knows: jobs by status, age of the queue, workers. Of the maintenance process.

One query a scrape at most, and none while the last answer is fresh, however many servers scrape.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import extract, func, select
from sqlalchemy.exc import SQLAlchemyError

from soul_store.database import transaction
from soul_store.job_state_machine import is_due
from soul_store.job_status import JobStatus
from soul_store.tables import Job, OutboxEntry, Worker

#: A worker that has reported within this time counts as seen. Workers report every five minutes.
_SEEN_SECONDS = 660
_FRESH_SECONDS = 10.0


def read_statistics() -> dict[str, Any]:
    """Return the figures of all jobs, the outbox and the workers, in one query."""
    now = func.clock_timestamp()
    by_status = select(Job.status, func.count().label("num_jobs")).group_by(Job.status).subquery()
    waits_since = func.greatest(Job.updated_at, func.coalesce(Job.next_attempt_at, Job.updated_at))
    query = select(
        select(func.coalesce(func.json_object_agg(by_status.c.status, by_status.c.num_jobs), func.json_build_object()))
        .scalar_subquery()
        .label("jobs"),
        select(func.count()).select_from(Job).where(is_due()).scalar_subquery().label("due"),
        select(extract("epoch", now - func.min(waits_since))).where(is_due()).scalar_subquery().label("queue_age"),
        select(extract("epoch", now - func.min(OutboxEntry.created_at))).scalar_subquery().label("outbox_age"),
        select(func.count()).select_from(OutboxEntry).scalar_subquery().label("outbox"),
        select(func.count())
        .select_from(Worker)
        .where(extract("epoch", now - Worker.seen_at) < _SEEN_SECONDS)
        .scalar_subquery()
        .label("workers"),
    )
    with transaction() as session:
        return dict(session.execute(query).mappings().one())


class ServiceCollector(Collector):
    """Reads the figures when Prometheus asks. `soul_database_up` is 0, without any other figure, while it cannot."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._statistics: dict[str, Any] | None = None

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values: registering must not query the database."""
        return _make_families(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics, read at most `_FRESH_SECONDS` ago."""
        with self._lock:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                try:
                    self._statistics = read_statistics()
                except SQLAlchemyError:
                    self._statistics = None
                self._read_at = time.monotonic()
            return _make_families(self._statistics)


def _make_families(statistics: dict[str, Any] | None) -> Iterator[Metric]:
    up = GaugeMetricFamily("soul_database_up", "1 if the maintenance process reaches the database.")
    up.add_metric([], 0 if statistics is None else 1)
    yield up
    jobs = GaugeMetricFamily("soul_jobs", "Jobs by status.", labels=["status"])
    if statistics is not None:
        for status in JobStatus:
            jobs.add_metric([status], statistics["jobs"].get(status, 0))
    yield jobs
    texts = {
        "queue_age": ("soul_queue_age_seconds", "How long the oldest job that could run has waited."),
        "due": ("soul_jobs_due", "Queued jobs that could run now."),
        "outbox_age": ("soul_outbox_age_seconds", "Age of the oldest message that was not sent."),
        "outbox": ("soul_outbox_messages", "Messages that were not sent."),
        "workers": ("soul_workers_seen", "Workers that reported within eleven minutes."),
    }
    for key, (name, text) in texts.items():
        family = GaugeMetricFamily(name, text)
        if statistics is not None:
            family.add_metric([], float(statistics[key] or 0))
        yield family
