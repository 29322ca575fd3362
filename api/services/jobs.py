"""Rules of jobs: what may be submitted, and how a job looks from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError, not_found
from api.schemas import JobCreate, JobOut, ProgressOut, StatusReason
from api.store import datasets, job_queries, job_states, jobs, models
from api.store.job_states import NotAllowed
from api.store.tables import Dataset, Job, Model
from soul_core.spec import FORGET, RETAIN
from soul_core.spec_checks import located_problems


@dataclass(frozen=True)
class Checked:
    """What a job's body names, found and judged. `missing` and `errors` are (pointer, detail)."""

    model: Model | None
    datasets: Mapping[str, Dataset]
    missing: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]


def check(session: Session, caller: Caller, body: JobCreate) -> Checked:
    """Find what the body names and everything that speaks against the job."""
    missing: list[tuple[str, str]] = []
    errors: list[tuple[str, str]] = []
    model = models.get(session, caller.tenant_id, body.model_id)
    if model is None:
        missing.append(("/model_id", f"there is no model {body.model_id}"))
    found: dict[str, Dataset] = {}
    for name, dataset_id in body.datasets.items():
        row = datasets.get(session, caller.tenant_id, dataset_id)
        if row is None:
            missing.append((f"/datasets/{name}", f"there is no data set {dataset_id}"))
        elif row.status != "ready":
            errors.append((f"/datasets/{name}", f"data set {dataset_id} cannot be used: its status is {row.status}"))
        else:
            found[name] = row
    errors += [
        ("/".join(["/spec", *place.split(".")]) if place else "/datasets", detail)
        for place, detail in located_problems(body.spec, body.datasets)
    ]
    forget, retain = found.get(FORGET), found.get(RETAIN)
    if forget and retain and forget.content_sha256 == retain.content_sha256:
        errors.append(
            ("/datasets/retain", "the forget set and the retain set are the same: the job would undo its own work")
        )
    return Checked(model, found, tuple(missing), tuple(errors))


def create(session: Session, caller: Caller, body: JobCreate) -> Job:
    """Queue a job. Raises 404 or 422 naming everything that is wrong with it; nothing is written then."""
    for dataset_id in sorted(set(body.datasets.values())):  # in one order: two jobs over the same sets cannot deadlock
        datasets.get(session, caller.tenant_id, dataset_id, lock=True)  # none is deleted before the job is there
    checked = check(session, caller, body)
    if checked.missing:
        raise ServiceError(404, "not_found", checked.missing[0][1], errors=checked.missing)
    if checked.errors:
        count = len(checked.errors)
        detail = checked.errors[0][1] if count == 1 else f"{count} things speak against this job"
        raise ServiceError(422, "invalid_job", detail, errors=checked.errors)
    return jobs.create(
        session,
        tenant_id=caller.tenant_id,
        created_by=caller.key_id,
        name=body.name,
        model_id=body.model_id,
        datasets=body.datasets,
        spec=body.spec.model_dump(mode="json"),
        spec_sha256=body.spec.digest(),
    )


def owned(session: Session, caller: Caller, job_id: str) -> Job:
    """Return the caller's job; another tenant's is not there."""
    job = job_queries.get(session, caller.tenant_id, job_id)
    if job is None:
        raise not_found(f"job {job_id}")
    return job


def cancel(session: Session, caller: Caller, job: Job) -> Job:
    """Cancel a job, or wish it cancelled when it runs."""
    try:
        return jobs.request_cancel(session, job, caller.key_id)
    except NotAllowed as error:
        raise ServiceError(
            409, "not_allowed", str(error), status_now=error.status, allowed_actions=list(error.allowed_actions)
        ) from error


def shown(session: Session, job: Job) -> JobOut:
    """Return a job as HTTP shows it."""
    progress: dict[str, Any] = {**job.progress, "queue_position": job_queries.queue_position(session, job)}
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events", "stream": f"{here}/events/stream", "metrics": f"{here}/metrics"}
    if job.report_blob is not None:
        links |= {"report": f"{here}/report", "artifacts": f"{here}/artifacts"}
    return JobOut(
        id=job.id,
        name=job.name,
        status=job.status,
        phase=job.phase,
        verdict=job.verdict,
        wish=job.wish,
        status_reason=StatusReason(**job.status_reason) if job.status_reason else None,
        allowed_actions=list(job_states.allowed_actions(job.status)),
        progress=ProgressOut(**progress),
        attempt=job.attempt,
        model_id=job.model_id,
        datasets=job.datasets,
        spec=job.spec,
        spec_sha256=job.spec_sha256,
        usage=job.usage,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
        links=links,
    )
