"""The workers of the fleet and their accelerators: what an estimate assumes of the machine that will run a job."""

from datetime import timedelta
from typing import Literal

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from soul_store.tables import Worker

Accelerator = Literal["cpu", "cuda"]

#: A worker that has not reported for this long has stopped.
EXPIRY = timedelta(hours=1)


def record(session: Session, *, name: str, accelerator: Accelerator) -> None:
    """Record that a worker runs and which accelerator it has; delete the workers that have stopped.

    A worker calls it when it starts, and several times in each `EXPIRY` while it runs.
    """
    session.execute(delete(Worker).where(_has_expired(), Worker.name != name))
    values = {"accelerator": accelerator, "seen_at": func.clock_timestamp()}
    upsert = insert(Worker).values(name=name, **values)
    session.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=values))


def get_best_accelerator(session: Session) -> Accelerator | None:
    """Return the fastest accelerator of the workers that run. None if no worker has reported."""
    accelerators = set(session.scalars(select(Worker.accelerator).where(~_has_expired()).distinct()))
    if not accelerators:
        return None
    return "cuda" if "cuda" in accelerators else "cpu"


def _has_expired() -> ColumnElement[bool]:
    return Worker.seen_at < func.clock_timestamp() - EXPIRY
