"""The outbox: messages to the workers, written with the rows they concern and sent after the commit.

A message names a job and nothing else: the job's row decides what happens.
"""

import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from soul_core import tracing
from soul_store.settings import get_settings
from soul_store.tables import Job, OutboxEntry

#: The broker's list of messages that no worker has taken.
QUEUE = "jobs"

#: Sends a message to the workers: the task's name and its arguments.
SendTask = Callable[[str, dict[str, Any]], None]


def make_broker_client() -> Redis:
    """Return a client of the broker, for what Celery does not offer: ping and the length of the queue."""
    url = get_settings().redis_url
    if url.startswith("redis+socket://"):
        url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)


def count_waiting_messages(client: Redis) -> int:
    """Return the number of messages that no worker has taken."""
    return client.llen(QUEUE)


def relay_messages(session: Session, send_task: SendTask, *, limit: int = 100) -> int:
    """Send committed messages and delete them from the outbox. Return their number.

    A crash before the commit sends them twice; the second message finds a job that cannot be claimed.
    """
    query = select(OutboxEntry).order_by(OutboxEntry.id).limit(limit).with_for_update(skip_locked=True)
    entries = list(session.scalars(query))
    for entry in entries:
        started_ns = time.time_ns()
        send_task(entry.task, entry.payload)
        _record_sending(session, entry.payload["job_id"], started_ns)
    if entries:
        session.execute(delete(OutboxEntry).where(OutboxEntry.id.in_([entry.id for entry in entries])))
        job_ids = [entry.payload["job_id"] for entry in entries]
        session.execute(update(Job).where(Job.id.in_(job_ids)).values(sent_at=func.clock_timestamp()))
    return len(entries)


def _record_sending(session: Session, job_id: str, started_ns: int) -> None:
    """Record the message in the trace of the job's request, if traces are sent."""
    if tracing.is_enabled():
        request_id = session.scalar(select(Job.request_id).where(Job.id == job_id))
        tracing.record_span(
            "send message",
            parent=tracing.make_trace_parent(request_id),
            started_ns=started_ns,
            attributes={"soul.job_id": job_id},
        )
