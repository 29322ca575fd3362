"""Data sets: queries. A deleted data set keeps its row, without content, as the receipt."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from soul_store import audit
from soul_store.ids import new_id
from soul_store.tables import HAS_NOT_FINISHED, Dataset, Job


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
        id=new_id("ds"),
        tenant_id=tenant_id,
        name=name,
        format=file_format,
        mapping=dict(mapping),
        **{"status": "awaiting_content", **content},
    )
    session.add(row)
    audit.insert(session, tenant_id=tenant_id, actor=actor, action="dataset.create", resource=row.id)
    session.flush()
    session.refresh(row)
    return row


def get(
    session: Session, tenant_id: str, dataset_id: str, *, for_update: bool = False, for_share: bool = False
) -> Dataset | None:
    """Return a tenant's data set unless it was deleted.

    Args:
        for_update: Lock the row: until this transaction ends, only it may change the data set.
        for_share: Share the row: until this transaction ends, no other may change it, but others may share it too.
            Transactions that only share cannot deadlock.
    """
    query = select(Dataset).where(
        Dataset.id == dataset_id, Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None)
    )
    return session.scalar(query.with_for_update(read=not for_update) if for_update or for_share else query)


def list_page(session: Session, tenant_id: str, *, limit: int, before: str | None = None) -> list[Dataset]:
    """Return a tenant's data sets, newest first, at most `limit`, older than the id `before`."""
    query = select(Dataset).where(Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None))
    if before is not None:
        query = query.where(Dataset.id < before)
    return list(session.scalars(query.order_by(Dataset.id.desc()).limit(limit)))


def update(session: Session, row: Dataset, values: Mapping[str, Any]) -> None:
    """Set columns of a data set whose row the caller has locked or just inserted."""
    for name, value in values.items():
        setattr(row, name, value)
    session.flush()


def delete(session: Session, row: Dataset, actor: str) -> None:
    """Mark a data set deleted; the caller removes its blob after the commit."""
    row.deleted_at = func.now()
    row.blob = None
    audit.insert(
        session,
        tenant_id=row.tenant_id,
        actor=actor,
        action="dataset.delete",
        resource=row.id,
        data={"sha256": row.sha256, "num_rows": row.num_rows},
    )
    session.flush()
    session.refresh(row)


def find_unfinished_job(session: Session, row: Dataset) -> str | None:
    """Return the id of a job of the same tenant that still needs the data set, or None."""
    is_input = text("EXISTS (SELECT FROM jsonb_each_text(jobs.datasets) AS input WHERE input.value = :dataset_id)")
    query = select(Job.id).where(
        Job.tenant_id == row.tenant_id, HAS_NOT_FINISHED, is_input.bindparams(dataset_id=row.id)
    )
    return session.scalar(query.limit(1))
