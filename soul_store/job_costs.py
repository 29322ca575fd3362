"""What finished jobs cost: the rows that estimates learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, union_all
from sqlalchemy.orm import Session

from soul_store.cost_model import COST_MODEL_VERSION
from soul_store.placement import Accelerator
from soul_store.tables import JobCost

#: Latest jobs of the same kind of worker, and of all kinds, that an estimate reads.
MAX_OWN, MAX_RECENT = 40, 40


@dataclass(frozen=True)
class NewJobCost:
    """What a job cost, to be recorded when it succeeds. The fields are those of the table."""

    accelerator: Accelerator
    machine: str
    dtype: str
    num_parameters: int
    steps: int
    train_tokens: int
    flops: float
    num_attacks: int
    work: Mapping[str, float]
    seconds: Mapping[str, float]
    planned_memory_bytes: int
    peak_memory_bytes: int | None


def insert(session: Session, cost: NewJobCost) -> None:
    """Record what a job cost."""
    session.add(JobCost(cost_model_version=COST_MODEL_VERSION, **vars(cost)))


def list_recent(session: Session, *, accelerator: Accelerator, machine: str | None, dtype: str) -> Sequence[JobCost]:
    """Return the latest jobs of a kind of worker and the latest of all kinds, in one query, the newest first."""
    current = JobCost.cost_model_version == COST_MODEL_VERSION
    kind = (current, JobCost.accelerator == accelerator, JobCost.machine == machine, JobCost.dtype == dtype)
    own = select(JobCost.id).where(*kind).order_by(JobCost.id.desc()).limit(MAX_OWN)
    recent = select(JobCost.id).where(current).order_by(JobCost.id.desc()).limit(MAX_RECENT)
    ids = union_all(select(own.subquery().c.id), select(recent.subquery().c.id)).subquery()
    return session.scalars(select(JobCost).where(JobCost.id.in_(select(ids.c.id))).order_by(JobCost.id.desc())).all()
