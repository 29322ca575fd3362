"""A worker's word with the database, however long it is away: while it is, nobody else can take the job either."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from soul_store.database import transaction
from worker.drain import is_draining

log = logging.getLogger(__name__)

T = TypeVar("T")
#: What a server says, or does not say, that is away or not quite back.
CONNECTION_ERRORS = (OperationalError, InterfaceError)
_PAUSE_SECONDS = 0.5


def run_when_database_available(work: Callable[[Session], T]) -> T:
    """Run `work` in a transaction until the database answers; raises what it says only when the worker must leave.

    The answer to a commit may get lost: work may run again after it was committed.
    """
    told = False
    while True:
        try:
            with transaction() as session:
                return work(session)
        except CONNECTION_ERRORS as error:
            if is_draining():
                raise
            if not told:
                log.warning("the database does not answer (%s); waiting for it", type(error).__name__)
            told = True
            time.sleep(_PAUSE_SECONDS)
