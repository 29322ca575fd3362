"""Rules of sequences: a job that begins with an earlier job's output carries forward what must stay forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from sqlalchemy.orm import Session

from api.auth import Caller
from soul_core.spec import PRIOR_FORGET_PREFIX, is_forget_set
from soul_store import datasets, job_queries, models
from soul_store.tables import Dataset, Model


@dataclass(frozen=True)
class PriorForgetSets:
    """Earlier forget sets as data sets of the new job, by name, and what is to be told about them."""

    datasets: Mapping[str, Dataset]
    messages: tuple[str, ...]

    def get_ids(self) -> dict[str, str]:
        """Return the data sets' ids by name."""
        return {name: row.id for name, row in self.datasets.items()}


def find_prior_forget_sets(
    session: Session, caller: Caller, model: Model | None, own_datasets: Mapping[str, str]
) -> PriorForgetSets:
    """Walk from the model to the jobs that made it, and return what they forgot or kept forgotten, the oldest first.

    These data sets are held until the transaction ends. One that was deleted since cannot be measured again, and is
    told. `taken`: the job's own data sets. Their names stay theirs, and what the job itself forgets, or names as an
    earlier set, is not doubled.
    """
    found: list[tuple[str, str]] = []  # (job, data set), the newest first
    while model is not None and model.parent_job_id is not None:
        job = job_queries.get(session, caller.tenant_id, model.parent_job_id)
        if job is None:
            break
        found += [(job.id, dataset_id) for dataset_id in _forgotten(job.datasets)]
        model = models.get(session, caller.tenant_id, job.model_id, include_deleted=True)
    carried: dict[str, Dataset] = {}
    told = []
    free = (name for number in count(1) if (name := f"{PRIOR_FORGET_PREFIX}{number}") not in own_datasets)
    known = {dataset_id for name, dataset_id in own_datasets.items() if is_forget_set(name)}
    for job_id, dataset_id in reversed(found):
        if dataset_id in known:
            continue
        known.add(dataset_id)
        row = datasets.get(session, caller.tenant_id, dataset_id, for_share=True)
        if row is None or row.status != "ready":
            told.append(f"what job {job_id} forgot cannot be measured again: its forget set was deleted")
        else:
            carried[name := next(free)] = row
            told.append(f"{name}: what job {job_id} forgot is measured again")
    return PriorForgetSets(carried, tuple(told))


def _forgotten(datasets: Mapping[str, str]) -> list[str]:
    """Return what a job forgot and what it was to keep forgotten: its forget set first."""
    return [dataset_id for name, dataset_id in sorted(datasets.items(), reverse=True) if is_forget_set(name)]
