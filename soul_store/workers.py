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


def record(session: Session, *, name: str, accelerator: Accelerator, machine: str | None = None) -> None:
    """Record that a worker runs, its accelerator and the name of its processor; delete the workers that have stopped.

    A worker calls it when it starts, and several times in each `EXPIRY` while it runs.
    """
    session.execute(delete(Worker).where(_has_expired(), Worker.name != name))
    values = {"accelerator": accelerator, "machine": machine, "seen_at": func.clock_timestamp()}
    upsert = insert(Worker).values(name=name, **values)
    session.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=values))


def get_best_accelerator(session: Session) -> Accelerator | None:
    """Return the fastest accelerator of the workers that run. None if no worker has reported."""
    accelerators = set(session.scalars(select(Worker.accelerator).where(~_has_expired()).distinct()))
    if not accelerators:
        return None
    return "cuda" if "cuda" in accelerators else "cpu"


def get_common_machine(session: Session, accelerator: Accelerator) -> str | None:
    """Return the machine that most of the running workers with this accelerator have; of equals the first by name."""
    query = select(Worker.machine).where(
        ~_has_expired(), Worker.accelerator == accelerator, Worker.machine.is_not(None)
    )
    return session.scalar(query.group_by(Worker.machine).order_by(func.count().desc(), Worker.machine).limit(1))


def _has_expired() -> ColumnElement[bool]:
    return Worker.seen_at < func.clock_timestamp() - EXPIRY
