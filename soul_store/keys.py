"""API keys and tenants: queries."""

from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from soul_store.ids import new_id
from soul_store.tables import ApiKey, AuditEntry, Tenant


def get_or_insert_tenant(session: Session, name: str) -> Tenant:
    """Return the project of this name, made if it is new."""
    tenant = session.scalar(select(Tenant).where(Tenant.name == name))
    if tenant is None:
        tenant = Tenant(id=new_id("prj"), name=name)
        session.add(tenant)
        session.flush()
    return tenant


def insert(
    session: Session,
    *,
    tenant_id: str,
    name: str,
    prefix: str,
    secret_sha256: str,
    scopes: list[str],
    expires_at: datetime | None,
    actor: str,
) -> ApiKey:
    """Write a key; only the hash of its secret is known here."""
    key = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        prefix=prefix,
        secret_sha256=secret_sha256,
        scopes=scopes,
        expires_at=expires_at,
    )
    session.add(key)
    session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action="api_key.create", resource=key.id))
    session.flush()
    session.refresh(key)
    return key


def has_any_key(session: Session) -> bool:
    """Say whether any key exists: on the first start none does."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def get_active(session: Session, prefix: str) -> ApiKey | None:
    """Return the key of this prefix unless it is revoked or expired."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    return session.scalar(select(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None), unexpired))


def touch(session: Session, key: ApiKey) -> None:
    """Note that the key was used, at most once a minute: a write a request would cost more than it tells."""
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))
    session.execute(update(ApiKey).where(ApiKey.id == key.id, stale).values(last_used_at=func.now()))


def list_page(session: Session, tenant_id: str, *, limit: int, before: str | None = None) -> list[ApiKey]:
    """Return a tenant's keys, newest first."""
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id)
    if before is not None:
        query = query.where(ApiKey.id < before)
    return list(session.scalars(query.order_by(ApiKey.id.desc()).limit(limit)))


def revoke(session: Session, tenant_id: str, key_id: str, actor: str) -> ApiKey | None:
    """Revoke a key for good. None when the tenant has no such key."""
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id).with_for_update())
    if key is not None and key.revoked_at is None:
        key.revoked_at = func.now()
        session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action="api_key.revoke", resource=key.id))
        session.flush()
        session.refresh(key)
    return key
