"""The relay publishes the outbox to a real broker, also after crashes and outages."""

from collections.abc import Callable, Iterator

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soul_store.outbox import count_waiting_messages, get_celery_app, make_broker_client, relay_once
from soul_store.tables import Job, OutboxEntry
from tests.servers import Servers

NewJob = Callable[[], Job]


@pytest.fixture
def empty_broker(settings_env: object) -> Iterator[Redis]:
    get_celery_app.cache_clear()
    with make_broker_client() as client:
        client.flushall()
        yield client
    get_celery_app().close()
    get_celery_app.cache_clear()


def count_entries(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(OutboxEntry)) or 0


def test_the_relay_publishes_committed_entries_and_deletes_them(
    session: Session, new_job: NewJob, empty_broker: Redis
) -> None:
    job = new_job()

    assert relay_once(session) == 1
    session.commit()

    assert count_waiting_messages(empty_broker) == 1
    assert count_entries(session) == 0
    session.refresh(job)
    assert job.sent_at is not None


def test_a_crash_between_publishing_and_commit_publishes_again(
    session: Session, new_job: NewJob, empty_broker: Redis
) -> None:
    new_job()
    relay_once(session)
    session.rollback()  # the crash

    relay_once(session)
    session.commit()

    assert count_waiting_messages(empty_broker) == 2, "the second message finds no job to claim"
    assert count_entries(session) == 0


def test_entries_stay_in_the_outbox_while_the_broker_is_unavailable(
    session: Session, new_job: NewJob, empty_broker: Redis, servers: Servers
) -> None:
    new_job()
    assert servers.valkey.process is not None
    servers.valkey.process.kill()
    servers.valkey.process.wait()

    with pytest.raises(OperationalError):
        relay_once(session)
    session.rollback()
    servers.valkey.start()
    relay_once(session)
    session.commit()

    assert count_waiting_messages(empty_broker) == 1


def test_an_outbox_entry_is_published_by_one_relay_only(
    session: Session, new_job: NewJob, empty_broker: Redis, database: object
) -> None:
    new_job()
    relay_once(session)

    with Session(database) as other:  # type: ignore[arg-type]
        assert relay_once(other) == 0
