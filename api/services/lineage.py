"""Rules of sequences: a job on the output of an earlier job evaluates the earlier job's forget sets again."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from api.auth import Caller
from soul_core.spec import PRIOR_FORGET_PREFIX, is_forget_set
from soul_store import datasets, job_queries, models
from soul_store.database import Session
from soul_store.tables import Dataset, Model


@dataclass(frozen=True)
class PriorForgetSets:
    """Forget sets of earlier jobs as data sets of the new job, by name, and messages about them."""

    datasets: Mapping[str, Dataset]
    messages: tuple[str, ...]

    def get_ids(self) -> dict[str, str]:
        """Return the data sets' ids by name."""
        return {name: row.id for name, row in self.datasets.items()}


def find_prior_forget_sets(
    session: Session, caller: Caller, model: Model | None, own_datasets: Mapping[str, str]
) -> PriorForgetSets:
    """Follow the jobs that made the model, and return their forget sets and prior forget sets, the oldest first.

    The rows of these data sets are shared until the transaction ends. A deleted one cannot be evaluated again; a
    message reports it. `own_datasets` keep their names, and a forget set among them is not added a second time.
    """
    job_datasets: list[tuple[str, str]] = []  # (job id, data set id), the newest first
    while model is not None and model.parent_job_id is not None:
        job = job_queries.get(session, caller.tenant_id, model.parent_job_id)
        if job is None:
            break
        # in reverse order, for the loop below: the forget set before the prior ones
        newest_first = sorted(job.datasets.items(), reverse=True)
        job_datasets += [(job.id, dataset_id) for name, dataset_id in newest_first if is_forget_set(name)]
        model = models.get(session, caller.tenant_id, job.model_id, include_deleted=True)
    prior: dict[str, Dataset] = {}
    messages = []
    free_names = (name for number in count(1) if (name := f"{PRIOR_FORGET_PREFIX}{number}") not in own_datasets)
    known = {dataset_id for name, dataset_id in own_datasets.items() if is_forget_set(name)}
    for job_id, dataset_id in reversed(job_datasets):
        if dataset_id in known:
            continue
        known.add(dataset_id)
        row = datasets.get(session, caller.tenant_id, dataset_id, for_share=True)
        if row is None or row.status != "ready":
            messages.append(f"a forget set of job {job_id} was deleted: it cannot be evaluated again")
        else:
            prior[name := next(free_names)] = row
            messages.append(f"{name}: a forget set of job {job_id} is evaluated again")
    return PriorForgetSets(prior, tuple(messages))
