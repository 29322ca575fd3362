"""What estimates learn from a job that succeeded: its work by the cost model, its seconds and memory by its report."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soul_core.spec import JobSpec
from soul_store.blobs import BlobStore
from soul_store.job_costs import NewJobCost
from soul_store.job_work import START, JobWork, count_work, measure_set
from soul_store.tables import Job, JobEvent
from worker.machine import describe_cpu
from worker.workspace import JobInputs


def make_job_cost(
    job: Job,
    job_inputs: JobInputs,
    report: dict[str, Any],
    *,
    engine_seconds: float,
    earlier: frozenset[str],
    blobs: BlobStore,
) -> NewJobCost:
    """Return what the job cost.

    Args:
        engine_seconds: Seconds of the engine in this attempt.
        earlier: Phases that an earlier attempt began: their seconds are those of more than one attempt.
    """
    run, spec = report["run"], JobSpec.model_validate(job.spec)
    num_parameters = int(job_inputs.model.facts.get("num_parameters") or report["model"]["num_parameters"])
    sets = {name: measure_set(row, blobs) for name, row in job_inputs.datasets.items()}
    work = count_work(spec, sets, num_parameters, num_compared_models=len(job_inputs.models))
    is_cpu = run["device"] == "cpu"
    return NewJobCost(
        accelerator="cpu" if is_cpu else "cuda",
        machine=describe_cpu() if is_cpu else run["device"],
        dtype=spec.dtype,
        num_parameters=num_parameters,
        steps=run["steps"],
        train_tokens=run["train_tokens"],
        flops=run["flops"],
        num_attacks=len(spec.attacks),
        work=work.by_phase,
        seconds=_select_seconds(work, run["seconds"], engine_seconds, earlier),
        planned_memory_bytes=work.planned_memory_bytes,
        peak_memory_bytes=None if earlier else run["peak_memory_bytes"],
    )


def list_earlier_phases(job: Job, session: Session) -> frozenset[str]:
    """Return the phases that earlier attempts of a job began: those before its last status event, `running`."""
    of_job = JobEvent.job_id == job.id
    claimed = select(func.max(JobEvent.seq)).where(of_job, JobEvent.kind == "status").scalar_subquery()
    events = session.scalars(select(JobEvent.data).where(of_job, JobEvent.kind == "phase", JobEvent.seq < claimed))
    return frozenset(data["phase"] for data in events)


def _select_seconds(
    work: JobWork, seconds: dict[str, float], engine_seconds: float, earlier: frozenset[str]
) -> dict[str, float]:
    """Return the seconds of the phases that only this attempt ran, and of its start; by the names of the work."""
    parts = {part: seconds.get(part.partition(":")[0], 0.0) for part in work.by_phase}
    parts[START] = 0.0 if earlier else engine_seconds - sum(seconds.values())
    return {part: value for part, value in parts.items() if value > 0 and part.partition(":")[0] not in earlier}
