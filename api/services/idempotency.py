"""Idempotency-Key: returns the stored response to a request that was served before."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api.auth import Caller
from api.errors import ErrorCode, ServiceError
from soul_store import idempotency, locks
from soul_store.database import Session


@dataclass(frozen=True)
class IdempotentResponse:
    """A response that is stored, and returned again."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def serve_once(
    session: Session, caller: Caller, key: str | None, request: Any, serve: Callable[[], IdempotentResponse]
) -> IdempotentResponse:
    """Serve a request once per key; the response is stored in the request's own transaction.

    Raises:
        ServiceError: 422 if the key was used with another body, 409 while a request with the key runs.
    """
    if key is None:
        return serve()
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise ServiceError(
            ErrorCode.BAD_IDEMPOTENCY_KEY, "Idempotency-Key must have 1 to 255 printable ASCII characters"
        )
    if not locks.try_lock(session, caller.tenant_id, key):
        raise ServiceError(
            ErrorCode.IDEMPOTENCY_IN_FLIGHT,
            "a request with this Idempotency-Key is still running; wait for it and send this one again",
            headers={"Retry-After": "1"},
        )
    sha256 = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    stored = idempotency.get(session, caller.tenant_id, key)
    if stored is not None:
        if stored.request_sha256 != sha256:
            detail = "this Idempotency-Key was used with another body; use a new key"
            raise ServiceError(ErrorCode.IDEMPOTENCY_KEY_REUSED, detail)
        assert stored.status_code is not None
        headers = {**(stored.headers or {}), "Idempotent-Replayed": "true"}
        return IdempotentResponse(stored.status_code, headers, stored.body or {})
    response = serve()
    idempotency.insert(
        session,
        tenant_id=caller.tenant_id,
        key=key,
        request_sha256=sha256,
        status_code=response.status,
        headers=response.headers,
        body=response.body,
    )
    return response
