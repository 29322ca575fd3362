"""Models: queries."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from soul_store import audit
from soul_store.ids import new_id
from soul_store.tables import Model


def insert(
    session: Session, *, tenant_id: str, actor: str, name: str, source: str, location: str, **identity: Any
) -> Model:
    """Write a model: its location, and what identifies it (revision, digest, facts, parent_job_id)."""
    row = Model(id=new_id("mdl"), tenant_id=tenant_id, name=name, source=source, location=location, **identity)
    session.add(row)
    audit.insert(session, tenant_id=tenant_id, actor=actor, action="model.create", resource=row.id)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, tenant_id: str, model_id: str, *, include_deleted: bool = False) -> Model | None:
    """Return a tenant's model. A deleted one only with `include_deleted`: its row says which job made it."""
    query = select(Model).where(Model.id == model_id, Model.tenant_id == tenant_id)
    return session.scalar(query if include_deleted else query.where(Model.deleted_at.is_(None)))


def list_page(session: Session, tenant_id: str, *, limit: int, before: str | None = None) -> list[Model]:
    """Return a tenant's models, newest first, at most `limit`, older than the id `before`."""
    query = select(Model).where(Model.tenant_id == tenant_id, Model.deleted_at.is_(None))
    if before is not None:
        query = query.where(Model.id < before)
    return list(session.scalars(query.order_by(Model.id.desc()).limit(limit)))


def delete(session: Session, row: Model, actor: str) -> None:
    """Mark a model deleted. Its files are not the service's and are not touched."""
    row.deleted_at = func.now()
    audit.insert(session, tenant_id=row.tenant_id, actor=actor, action="model.delete", resource=row.id)
    session.flush()
