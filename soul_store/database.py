"""The engine and the session: one request or task is one transaction, committed once, at the edge."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from soul_store.metrics import MeasuredPool
from soul_store.settings import get_settings

__all__ = [
    "SPARE_CONNECTIONS",
    "Session",
    "close",
    "is_available",
    "make_engine",
    "measure_clock_skew",
    "open_session",
    "transaction",
]

#: Connections of a process beyond those of its requests: for what runs in addition.
SPARE_CONNECTIONS = 8
#: A connection that was used this short a time ago is not checked before it is used again.
_TRUSTED_SECONDS = 1.0


def make_engine(url: str, *, pool_size: int = 10) -> Engine:
    """Return an engine whose idle connections are checked before use, so that a restarted server causes no error."""
    engine = create_engine(
        url,
        poolclass=MeasuredPool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        connect_args={"connect_timeout": 10, "options": "-c timezone=UTC -c lock_timeout=30000"},
    )

    @event.listens_for(engine, "checkin")
    def record_use(_: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check_idle_connection(connection: Any, record: Any, _: Any) -> None:
        # `pool_pre_ping` would cost every request a round trip
        if time.monotonic() - record.info.get("used_at", time.monotonic()) < _TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool opens a new connection

    return engine


@cache
def _make_session_factory(url: str, pool_size: int) -> sessionmaker[Session]:
    return sessionmaker(make_engine(url, pool_size=pool_size), expire_on_commit=False)


def open_session() -> Session:
    """Return a session that takes its connection at its first statement."""
    settings = get_settings()
    return _make_session_factory(settings.database_url, settings.api_concurrency + SPARE_CONNECTIONS)()


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block as one transaction: committed at its end, rolled back if it raises."""
    with open_session() as session, session.begin():
        yield session


def close(session: Session, *, commit: bool) -> None:
    """End a session's transaction and give its connection back."""
    with session:
        if commit:
            session.commit()


def is_available() -> bool:
    """Return within two seconds whether the database answers, on a connection of its own, and has the tables."""
    try:
        engine = create_engine(get_settings().database_url, poolclass=NullPool, connect_args={"connect_timeout": 2})
        with engine.connect() as connection:
            connection.execute(text("SET statement_timeout = 2000"))
            connection.execute(text("SELECT 1 FROM tenants LIMIT 1"))
    except SQLAlchemyError:
        return False
    return True


def measure_clock_skew() -> float:
    """Return how many seconds the clock of this machine is after the database's."""
    with transaction() as session:
        session.execute(text("SELECT 1"))  # connecting is not part of the measurement
        before = time.time()
        database_time = session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        after = time.time()
    return (before + after) / 2 - float(database_time)
