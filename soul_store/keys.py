"""API keys and tenants: queries."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from soul_store import audit
from soul_store.ids import new_id
from soul_store.tables import ApiKey, Tenant

_TOUCH_INTERVAL = timedelta(minutes=1)


def get_or_insert_tenant(session: Session, name: str) -> Tenant:
    """Return the project of this name; a new one if there is none."""
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
    """Write a key; of its secret only the hash is stored."""
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
    audit.insert(session, tenant_id=tenant_id, actor=actor, action="api_key.create", resource=key.id)
    session.flush()
    session.refresh(key)
    return key


def has_any_key(session: Session) -> bool:
    """Return whether there is any key: a new database has none."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def get_active(session: Session, prefix: str) -> ApiKey | None:
    """Return the key of this prefix unless it is revoked or expired."""
    return session.scalar(select(ApiKey).where(ApiKey.prefix == prefix, _is_active()))


def get(session: Session, tenant_id: str, key_id: str) -> ApiKey | None:
    """Return a tenant's key, revoked or not."""
    return session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id))


def is_active(session: Session, key_id: str) -> bool:
    """Return whether a key is neither revoked nor expired."""
    return session.scalar(select(ApiKey.id).where(ApiKey.id == key_id, _is_active())) is not None


def touch(session: Session, key: ApiKey) -> None:
    """Record that the key was used, at most once a minute: a write per request would cost more than it is worth."""
    if key.last_used_at is None or datetime.now(UTC) - key.last_used_at > _TOUCH_INTERVAL:
        is_stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - _TOUCH_INTERVAL)
        session.execute(update(ApiKey).where(ApiKey.id == key.id, is_stale).values(last_used_at=func.now()))


def list_page(session: Session, tenant_id: str, *, limit: int, before: str | None = None) -> list[ApiKey]:
    """Return a tenant's keys, newest first, at most `limit`, older than the id `before`."""
    query = select(ApiKey).where(ApiKey.tenant_id == tenant_id)
    if before is not None:
        query = query.where(ApiKey.id < before)
    return list(session.scalars(query.order_by(ApiKey.id.desc()).limit(limit)))


def revoke(session: Session, tenant_id: str, key_id: str, actor: str) -> ApiKey | None:
    """Revoke a key permanently. None if the tenant has no such key."""
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id).with_for_update())
    if key is not None and key.revoked_at is None:
        key.revoked_at = func.now()
        audit.insert(session, tenant_id=tenant_id, actor=actor, action="api_key.revoke", resource=key.id)
        session.flush()
        session.refresh(key)
    return key


def _is_active() -> ColumnElement[bool]:
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()))
