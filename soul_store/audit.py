"""The audit log: who did what to which resource. Entries are only ever added."""

from typing import Any

from sqlalchemy.orm import Session

from soul_store.tables import AuditEntry


def insert(
    session: Session, *, tenant_id: str, actor: str, action: str, resource: str, data: dict[str, Any] | None = None
) -> None:
    """Write an entry in the transaction of the action itself. `actor` is a key's id, or "system"."""
    session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action=action, resource=resource, data=data or {}))
