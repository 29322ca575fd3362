"""The engine and the session: one request or task is one transaction, committed once, at the edge."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from soul_store.metrics import MeasuredPool
from soul_store.settings import get_settings

__all__ = ["Session", "is_available", "make_engine", "measure_clock_skew", "transaction"]


def make_engine(url: str) -> Engine:
    """Return an engine that checks each connection before use, so that a restarted server causes no error."""
    return create_engine(
        url,
        poolclass=MeasuredPool,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={"connect_timeout": 10, "options": "-c timezone=UTC -c lock_timeout=30000"},
    )


@cache
def _make_session_factory(url: str) -> sessionmaker[Session]:
    return sessionmaker(make_engine(url), expire_on_commit=False)


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block as one transaction: committed at its end, rolled back if it raises."""
    with _make_session_factory(get_settings().database_url).begin() as session:
        yield session


def is_available() -> bool:
    """Return whether the database answers and has the service's tables."""
    try:
        with transaction() as session:
            session.execute(text("SELECT 1 FROM tenants LIMIT 1"))
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
