"""Messages of the outbox reach a real broker, whatever fails in between."""

from collections.abc import Callable, Iterator

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from soul_store.outbox import count_waiting_messages, make_broker_client, relay_messages
from soul_store.tables import Job, OutboxEntry
from tests.servers import Servers
from worker.celery_app import app, send_task

NewJob = Callable[[], Job]


@pytest.fixture
def empty_broker(settings_env: object) -> Iterator[Redis]:
    with make_broker_client() as client:
        client.flushall()
        yield client
    app.close()


def count_outbox_entries(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(OutboxEntry)) or 0


def test_the_relay_sends_committed_messages_and_deletes_them(
    session: Session, new_job: NewJob, empty_broker: Redis
) -> None:
    job = new_job()

    assert relay_messages(session, send_task) == 1
    session.commit()

    assert count_waiting_messages(empty_broker) == 1
    assert count_outbox_entries(session) == 0
    session.refresh(job)
    assert job.sent_at is not None


def test_a_crash_between_sending_and_commit_sends_again(session: Session, new_job: NewJob, empty_broker: Redis) -> None:
    new_job()
    relay_messages(session, send_task)
    session.rollback()  # the crash

    relay_messages(session, send_task)
    session.commit()

    assert count_waiting_messages(empty_broker) == 2, "the second message finds no job to claim"
    assert count_outbox_entries(session) == 0


def test_while_the_broker_is_unavailable_the_outbox_keeps_its_messages(
    session: Session, new_job: NewJob, empty_broker: Redis, servers: Servers
) -> None:
    new_job()
    assert servers.valkey.process is not None
    servers.valkey.process.kill()
    servers.valkey.process.wait()

    with pytest.raises(OperationalError):
        relay_messages(session, send_task)
    session.rollback()
    servers.valkey.start()
    relay_messages(session, send_task)
    session.commit()

    assert count_waiting_messages(empty_broker) == 1


def test_a_message_is_sent_by_one_relay_only(
    session: Session, new_job: NewJob, empty_broker: Redis, database: Engine
) -> None:
    new_job()
    relay_messages(session, send_task)

    with Session(database) as other:
        assert relay_messages(other, send_task) == 0
