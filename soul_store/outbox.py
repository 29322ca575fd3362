"""The Celery app and the outbox relay. A message says only `{job_id}`: the row is the truth, the queue a hint."""

import os
import socket
from functools import cache

from celery import Celery
from redis import Redis
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from soul_store.settings import get_settings
from soul_store.tables import Job, OutboxEntry

QUEUE = "jobs"


@cache
def get_celery_app() -> Celery:
    """Return the app, configured from the settings.

    Early acknowledgement: with late ones a Redis broker delivers any task that outlives its visibility timeout a
    second time, while the first still runs. No prefetch: a worker takes a message only when it is free.
    """
    app = Celery("soul", broker=get_settings().redis_url, include=["worker.tasks"])
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the lease, not the broker, decides
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "retry_on_timeout": True,
        },
        task_publish_retry=False,  # the relay tries again: the outbox row is still there
        enable_utc=True,
    )
    return app


def make_broker_client() -> Redis:
    """Return a client of the broker for what Celery has no word for: ping and queue length."""
    url = get_settings().redis_url
    if url.startswith("redis+socket://"):
        url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)


def count_waiting_messages(client: Redis) -> int:
    """Return how many messages no worker has taken yet."""
    return client.llen(QUEUE)


def relay_once(session: Session, *, limit: int = 100) -> int:
    """Publish outbox entries that are committed, then forget them. Returns how many.

    A crash between publishing and the commit publishes twice; `claim` makes the second message harmless.
    """
    query = select(OutboxEntry).order_by(OutboxEntry.id).limit(limit).with_for_update(skip_locked=True)
    entries = list(session.scalars(query))
    for entry in entries:
        get_celery_app().send_task(entry.task, kwargs=entry.payload)
    if entries:
        session.execute(delete(OutboxEntry).where(OutboxEntry.id.in_([entry.id for entry in entries])))
        sent = [entry.payload["job_id"] for entry in entries]
        session.execute(update(Job).where(Job.id.in_(sent)).values(sent_at=func.clock_timestamp()))
    return len(entries)


def get_worker_name() -> str:
    """Return who holds a lease, for the operator: machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"
