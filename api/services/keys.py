"""Rules of API keys."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from api.auth import ALL_SCOPES, SCOPES, Caller, generate_api_key
from api.errors import ServiceError, make_not_found_error
from soul_store import keys
from soul_store.tables import ApiKey

FIRST_PROJECT = "default"


def ensure_admin_key(session: Session) -> str | None:
    """On the first start make the first project and its admin key, and return the key's text. Later: None."""
    if keys.has_any_key(session):
        return None
    text, prefix, sha256 = generate_api_key()
    tenant = keys.get_or_insert_tenant(session, FIRST_PROJECT)
    keys.insert(
        session,
        tenant_id=tenant.id,
        name="admin",
        prefix=prefix,
        secret_sha256=sha256,
        scopes=[ALL_SCOPES],
        expires_at=None,
        actor="system",
    )
    return text


def create(
    session: Session, caller: Caller, *, name: str, scopes: list[str], expires_at: datetime | None
) -> tuple[ApiKey, str]:
    """Make a key with at most the caller's own scopes; return it and its text."""
    unknown = [scope for scope in scopes if scope not in {*SCOPES, ALL_SCOPES}]
    if unknown:
        raise ServiceError(
            422,
            "unknown_scope",
            f"unknown scope {unknown[0]}; known: {', '.join(SCOPES)}",
            errors=[("/scopes", unknown[0])],
        )
    lacking = [scope for scope in scopes if not caller.has_scope(scope)]
    if lacking:
        raise ServiceError(403, "missing_scope", f"a key cannot grant what it lacks: {', '.join(lacking)}")
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
        raise ServiceError(
            422,
            "invalid_request",
            "expires_at must be in the future, with a time zone",
            errors=[("/expires_at", "past")],
        )
    text, prefix, sha256 = generate_api_key()
    key = keys.insert(
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


def revoke(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Revoke a key of the caller's project."""
    key = keys.revoke(session, caller.tenant_id, key_id, caller.key_id)
    if key is None:
        raise make_not_found_error(f"API key {key_id}")
    return key
