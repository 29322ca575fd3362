"""Stored responses to requests with an Idempotency-Key: queries."""

from typing import Any

from sqlalchemy.orm import Session

from soul_store.tables import IdempotencyKey


def get(session: Session, tenant_id: str, key: str) -> IdempotencyKey | None:
    """Return the stored response to a request with this key."""
    return session.get(IdempotencyKey, (tenant_id, key))


def insert(
    session: Session,
    *,
    tenant_id: str,
    key: str,
    request_sha256: str,
    status_code: int,
    headers: dict[str, str],
    body: dict[str, Any],
) -> None:
    """Store the response to a request, in that request's own transaction."""
    session.add(
        IdempotencyKey(
            tenant_id=tenant_id,
            key=key,
            request_sha256=request_sha256,
            status_code=status_code,
            headers=headers,
            body=body,
        )
    )
    session.flush()
