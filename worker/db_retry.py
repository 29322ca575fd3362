"""Database work of a task, retried until the database is available: no other worker can claim the job meanwhile."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from soul_store.database import transaction
from worker.drain import is_draining

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")
#: Errors of a database that is unavailable or still starting.
CONNECTION_ERRORS = (OperationalError, InterfaceError)
_PAUSE_SECONDS = 0.5


def run_when_database_available(work: Callable[[Session], T]) -> T:
    """Run `work` in a transaction, again and again until the database is available or the worker drains.

    The answer to a commit can be lost, so `work` may run once more after it was committed.
    """
    is_waiting = False
    while True:
        try:
            with transaction() as session:
                return work(session)
        except CONNECTION_ERRORS as error:
            if is_draining():
                raise
            if not is_waiting:
                log.warning("the database is unavailable; retrying", error=type(error).__name__)
            is_waiting = True
            time.sleep(_PAUSE_SECONDS)
