"""Rules of API keys."""

from datetime import UTC, datetime

from api.auth import ALL_SCOPES, SCOPES, Caller, generate_api_key
from api.errors import ErrorCode, RequestProblem, ServiceError, make_not_found_error
from soul_store import keys
from soul_store.database import Session
from soul_store.tables import ApiKey

FIRST_PROJECT = "default"


def ensure_admin_key(session: Session) -> str | None:
    """Create the first project and its admin key in a new database and return the key's text; later return None."""
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
    """Create a key with at most the caller's own scopes; return it and its text."""
    unknown = [scope for scope in scopes if scope not in {*SCOPES, ALL_SCOPES}]
    if unknown:
        detail = f"unknown scope {unknown[0]}; known: {', '.join(SCOPES)}"
        raise ServiceError(ErrorCode.UNKNOWN_SCOPE, detail, problems=[RequestProblem("/scopes", detail)])
    lacking = [scope for scope in scopes if not caller.has_scope(scope)]
    if lacking:
        detail = f"a key can grant only its own scopes; this one lacks {', '.join(lacking)}"
        raise ServiceError(ErrorCode.MISSING_SCOPE, detail)
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
        detail = "expires_at must be in the future and have a time zone"
        raise ServiceError(ErrorCode.INVALID_REQUEST, detail, problems=[RequestProblem("/expires_at", detail)])
    if caller.expires_at is not None and (expires_at is None or expires_at > caller.expires_at):
        latest = caller.expires_at.isoformat()
        detail = f"a key cannot outlive the one that creates it; set expires_at to {latest} or earlier"
        raise ServiceError(ErrorCode.INVALID_REQUEST, detail, problems=[RequestProblem("/expires_at", detail)])
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


def list_page(session: Session, caller: Caller, *, limit: int, before: str | None) -> list[ApiKey]:
    """Return the keys of the caller's project, newest first, at most `limit`, older than the id `before`."""
    return keys.list_page(session, caller.tenant_id, limit=limit, before=before)


def revoke(session: Session, caller: Caller, key_id: str) -> ApiKey:
    """Revoke a key of the caller's project. Raises 404, and 403 for a key with scopes that the caller lacks."""
    key_to_revoke = keys.get(session, caller.tenant_id, key_id)
    lacking = [scope for scope in key_to_revoke.scopes if not caller.has_scope(scope)] if key_to_revoke else []
    if lacking:
        detail = f"a key can revoke only keys with its own scopes; this one lacks {', '.join(lacking)}"
        raise ServiceError(ErrorCode.MISSING_SCOPE, detail, scope=lacking[0])
    key = keys.revoke(session, caller.tenant_id, key_id, caller.key_id)
    if key is None:
        raise make_not_found_error(f"API key {key_id}")
    return key
