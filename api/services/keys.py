"""Rules of API keys."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from api.auth import ALL, SCOPES, Caller, new_key_text
from api.errors import ServiceError, not_found
from soul_store import keys
from soul_store.tables import ApiKey

FIRST_PROJECT = "default"


def ensure_admin_key(session: Session) -> str | None:
    """On the first start make the first project and its admin key, and return the key's text. Later: None."""
    if keys.any_key(session):
        return None
    text, prefix, sha256 = new_key_text()
    tenant = keys.tenant_named(session, FIRST_PROJECT)
    keys.create(
        session,
        tenant_id=tenant.id,
        name="admin",
        prefix=prefix,
        secret_sha256=sha256,
        scopes=[ALL],
        expires_at=None,
        actor="system",
    )
    return text


def create_key(
    session: Session, caller: Caller, *, name: str, scopes: list[str], expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """Make a key with at most the caller's own scopes; return it and its text."""
    unknown = [scope for scope in scopes if scope not in {*SCOPES, ALL}]
    if unknown:
        raise ServiceError(
            422,
            "unknown_scope",
            f"unknown scope {unknown[0]}; known: {', '.join(SCOPES)}",
            errors=[("/scopes", unknown[0])],
        )
    lacking = [scope for scope in scopes if not caller.may(scope)]
    if lacking:
        raise ServiceError(403, "missing_scope", f"a key cannot grant what it lacks: {', '.join(lacking)}")
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
        raise ServiceError(
            422,
            "invalid_request",
            "expires_at must be in the future, with a time zone",
            errors=[("/expires_at", "past")],
        )
    text, prefix, sha256 = new_key_text()
    key = keys.create(
        session,
        tenant_id=caller.tenant_id,
        name=name,
        prefix=prefix,
        secret_sha256=sha256,
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
        actor=caller.key_id,
    )
    return key, text


def revoke_key(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Revoke a key of the caller's project."""
    key = keys.revoke(session, caller.tenant_id, key_id, caller.key_id)
    if key is None:
        raise not_found(f"API key {key_id}")
    return key
