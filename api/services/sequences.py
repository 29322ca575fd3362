"""Rules of sequences: a job that begins with an earlier job's output carries forward what must stay forgotten."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.auth import Caller
from api.store import datasets, job_queries, models
from api.store.tables import Model
from soul_core.spec import EARLIER, FORGET


@dataclass(frozen=True)
class Carried:
    """Earlier forget sets as data sets of the new job (name -> id), and what is to be told about them."""

    datasets: dict[str, str]
    told: tuple[str, ...]


def carried_forward(session: Session, caller: Caller, model: Model | None, taken: dict[str, str]) -> Carried:
    """Walk from the model to the jobs that made it, and return their forget sets, the oldest first.

    A set that was deleted since cannot be measured again, and is told. `taken`: the job's own data sets, which are
    neither renamed nor doubled.
    """
    found: list[tuple[str, str]] = []  # (job, data set), the newest first
    while model is not None and model.parent_job_id is not None:
        job = job_queries.get(session, caller.tenant_id, model.parent_job_id)
        if job is None:
            break
        if job.kind == "unlearn":
            found.append((job.id, job.datasets[FORGET]))
        model = models.get(session, caller.tenant_id, job.model_id, deleted=True)
    carried: dict[str, str] = {}
    told = []
    for number, (job_id, dataset_id) in enumerate(reversed(found), start=1):
        name = f"{EARLIER}{number}"
        row = datasets.get(session, caller.tenant_id, dataset_id, lock=True)
        if row is None or row.status != "ready":
            told.append(f"what job {job_id} forgot cannot be measured again: its forget set was deleted")
        elif name not in taken and dataset_id not in {*taken.values(), *carried.values()}:
            carried[name] = dataset_id
            told.append(f"{name}: what job {job_id} forgot is measured again")
    return Carried(carried, tuple(told))
