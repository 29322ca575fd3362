"""Data sets: queries. A deleted one keeps its row, without content, as the receipt."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soul_store.ids import new_id
from soul_store.tables import AuditEntry, Dataset, Job


def insert(
    session: Session,
    *,
    tenant_id: str,
    actor: str,
    name: str,
    file_format: str | None,
    mapping: dict[str, str],
    **content: Any,
) -> Dataset:
    """Write a data set, with or without its content."""
    row = Dataset(
        id=content.pop("id", None) or new_id("ds"),
        tenant_id=tenant_id,
        name=name,
        format=file_format,
        mapping=dict(mapping),
        **{"status": "awaiting_content", **content},
    )
    session.add(row)
    session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action="dataset.create", resource=row.id))
    session.flush()
    session.refresh(row)
    return row


def get(
    session: Session, tenant_id: str, dataset_id: str, *, for_update: bool = False, for_share: bool = False
) -> Dataset | None:
    """Return a tenant's data set unless it was deleted. `lock`: only this transaction may change it. `hold`: nobody
    changes it before this transaction ends, and others may hold it too: whoever only holds cannot deadlock.
    """
    query = select(Dataset).where(
        Dataset.id == dataset_id, Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None)
    )
    return session.scalar(query.with_for_update(read=not for_update) if for_update or for_share else query)


def list_page(session: Session, tenant_id: str, *, limit: int, before: str | None = None) -> list[Dataset]:
    """Return a tenant's data sets, newest first."""
    query = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None))
    if before is not None:
        query = query.where(Dataset.id < before)
    return list(session.scalars(query.order_by(Dataset.id.desc()).limit(limit)))


def delete(session: Session, row: Dataset, actor: str) -> None:
    """Mark a data set deleted; its blob is the caller's to remove after commit."""
    row.deleted_at = func.now()
    row.blob = None
    session.add(
        AuditEntry(
            tenant_id=row.tenant_id,
            actor=actor,
            action="dataset.delete",
            resource=row.id,
            data={"sha256": row.sha256, "num_rows": row.num_rows},
        )
    )
    session.flush()
    session.refresh(row)


def find_active_job(session: Session, dataset_id: str) -> str | None:
    """Return a job that still needs the data set, if any."""
    active = Job.status.in_(("awaiting_approval", "queued", "running", "paused"))
    for job in session.scalars(select(Job).where(active)):
        if dataset_id in job.datasets.values():
            return job.id
    return None
