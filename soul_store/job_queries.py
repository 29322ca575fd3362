"""Reads of jobs, their events, metrics and artifacts. Writes are in `jobs` and `job_leases`."""

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy import select
from sqlalchemy.orm import Session

from soul_core.spec import JobKind
from soul_store.job_status import JobStatus
from soul_store.tables import Artifact, Job, JobEvent, JobMetric


def get(session: Session, tenant_id: str, job_id: str) -> Job | None:
    """Return a tenant's job."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id))


def list_page(
    session: Session,
    tenant_id: str,
    *,
    limit: int,
    before: str | None = None,
    status: JobStatus | None = None,
    name: str | None = None,
    kind: JobKind | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[Job]:
    """Return a tenant's jobs with all of the metadata, newest first, at most `limit`, older than the id `before`."""
    query = select(Job).where(Job.tenant_id == tenant_id)
    if before is not None:
        query = query.where(Job.id < before)
    if status is not None:
        query = query.where(Job.status == status)
    if name is not None:
        query = query.where(Job.name == name)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if metadata:
        query = query.where(Job.user_metadata.contains(dict(metadata)))
    return list(session.scalars(query.order_by(Job.id.desc()).limit(limit)))


def list_events(session: Session, job_id: str, after: int, *, limit: int = 1000) -> list[JobEvent]:
    """Return a job's events after the `seq` given, in order."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    return list(session.scalars(query.order_by(JobEvent.seq).limit(limit)))


def list_metrics(session: Session, job_id: str) -> list[JobMetric]:
    """Return the points of a job's curves, in the order of the steps."""
    return list(session.scalars(select(JobMetric).where(JobMetric.job_id == job_id).order_by(JobMetric.step)))


def get_last_metric(session: Session, job_id: str) -> JobMetric | None:
    """Return the newest point of a job's curves."""
    query = select(JobMetric).where(JobMetric.job_id == job_id).order_by(JobMetric.step.desc()).limit(1)
    return session.scalar(query)


def list_artifacts(session: Session, job_id: str) -> list[Artifact]:
    """Return a job's artifacts, sorted by path."""
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.path)))


def get_artifact_by_path(session: Session, job_id: str, path: str) -> Artifact | None:
    """Return a job's artifact of this path."""
    return session.scalar(select(Artifact).where(Artifact.job_id == job_id, Artifact.path == path))


def get_artifact(session: Session, tenant_id: str, artifact_id: str) -> Artifact | None:
    """Return a tenant's artifact."""
    return session.scalar(select(Artifact).where(Artifact.id == artifact_id, Artifact.tenant_id == tenant_id))
