"""The engine and the session: one request or task is one transaction, committed once, at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from soul_store.settings import get_settings


def make_engine(url: str) -> Engine:
    """Return an engine whose connections are checked before use, so a restarted server is no error."""
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={"connect_timeout": 10, "options": "-c timezone=UTC -c lock_timeout=30000"},
    )


@cache
def _sessions(url: str) -> sessionmaker[Session]:
    return sessionmaker(make_engine(url), expire_on_commit=False)


def open_session() -> Session:
    """Return a session on the configured database; the caller commits and closes it."""
    return _sessions(get_settings().database_url)()


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block as one transaction: committed at its end, rolled back when it raises."""
    with open_session() as session, session.begin():
        yield session
