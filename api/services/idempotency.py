"""Idempotency-Key: the answer to a request already served, kept in that request's own transaction."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError
from soul_store.tables import IdempotencyKey


@dataclass(frozen=True)
class IdempotentResponse:
    """What was answered, and is answered again."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def serve_once(
    session: Session, caller: Caller, key: str | None, request: Any, serve: Callable[[], IdempotentResponse]
) -> IdempotentResponse:
    """Serve a request once per key: the same body gets the same answer, another body 422, a running one 409."""
    if key is None:
        return serve()
    if not 1 <= len(key) <= 255:
        raise ServiceError(422, "bad_idempotency_key", "Idempotency-Key must have 1 to 255 characters")
    number = int.from_bytes(hashlib.sha256(f"{caller.tenant_id} {key}".encode()).digest()[:8], "big", signed=True)
    if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}):
        raise ServiceError(
            409,
            "idempotency_in_flight",
            "a request with this Idempotency-Key is still running",
            headers={"Retry-After": "1"},
        )
    sha256 = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    known = session.get(IdempotencyKey, (caller.tenant_id, key))
    if known is not None:
        if known.request_sha256 != sha256:
            raise ServiceError(
                422, "idempotency_key_reused", "this Idempotency-Key came with another body before; use a new key"
            )
        assert known.status_code is not None
        return IdempotentResponse(
            known.status_code, {**(known.headers or {}), "Idempotent-Replayed": "true"}, known.body or {}
        )
    answer = serve()
    session.add(
        IdempotencyKey(
            tenant_id=caller.tenant_id,
            key=key,
            request_sha256=sha256,
            status_code=answer.status,
            headers=answer.headers,
            body=answer.body,
        )
    )
    session.flush()
    return answer
