"""API keys: their text, and from a request's credential to who calls."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from fastapi import Request
from sqlalchemy.orm import Session

from api.errors import ServiceError
from soul_store import keys

SCOPES = (
    "jobs:read",
    "jobs:write",
    "datasets:read",
    "datasets:write",
    "models:read",
    "models:write",
    "models:download",
    "models:download_unverified",
    "keys:admin",
)
ALL_SCOPES = "*"
_KEY = re.compile(r"soul_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Caller:
    """Who calls: the tenant, the key, what it may do."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]

    def has_scope(self, scope: str) -> bool:
        return ALL_SCOPES in self.scopes or scope in self.scopes

    def require(self, scope: str) -> None:
        """Raise 403 naming the scope that is missing."""
        if not self.has_scope(scope):
            raise ServiceError(403, "missing_scope", f"this API key lacks the scope {scope}", scope=scope)


def generate_api_key() -> tuple[str, str, str]:
    """Return (text for the user, prefix, sha256 of the secret). The text is never stored."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    prefix = "".join(secrets.choice(alphabet) for _ in range(8))
    secret = secrets.token_urlsafe(32)  # 256 bit
    return f"soul_{prefix}_{secret}", prefix, _sha256(secret)


def authenticate(request: Request, session: Session) -> Caller:
    """Return the caller; raise 401 for a missing, malformed, unknown, revoked or expired key."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized("send an API key: Authorization: Bearer soul_...")
    match = _KEY.fullmatch(text.strip())
    key = keys.get_active(session, match[1]) if match else None
    if match is None or key is None or not hmac.compare_digest(_sha256(match[2]), key.secret_sha256):
        raise _unauthorized("this API key is unknown, revoked or expired")
    keys.touch(session, key)
    return Caller(key.tenant_id, key.id, frozenset(key.scopes))


def _unauthorized(detail: str) -> ServiceError:
    return ServiceError(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="soul"'})


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
