"""API keys: their text, and the caller that a request's credential identifies."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from api.errors import ErrorCode, ServiceError
from soul_store import keys
from soul_store.database import Session

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
    """The tenant and the key that send a request, and the key's scopes."""

    tenant_id: str
    key_id: str
    scopes: frozenset[str]
    expires_at: datetime | None = None

    def has_scope(self, scope: str) -> bool:
        return ALL_SCOPES in self.scopes or scope in self.scopes

    def require(self, scope: str) -> None:
        """Raise 403 naming the scope that is missing."""
        if not self.has_scope(scope):
            raise ServiceError(ErrorCode.MISSING_SCOPE, f"this API key lacks the scope {scope}", scope=scope)


def generate_api_key() -> tuple[str, str, str]:
    """Return (text for the user, prefix, sha256 of the secret). The text is never stored."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    prefix = "".join(secrets.choice(alphabet) for _ in range(8))
    secret = secrets.token_urlsafe(32)  # 256 bits
    return f"soul_{prefix}_{secret}", prefix, _hash(secret)


def authenticate(session: Session, authorization: str | None) -> Caller:
    """Return the caller of an Authorization header.

    Raises:
        ServiceError: 401 for a missing, malformed, unknown, revoked or expired key.
    """
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise _make_unauthorized_error("send an API key: Authorization: Bearer soul_...")
    match = _KEY.fullmatch(text.strip())
    key = keys.get_active(session, match[1]) if match else None
    if match is None or key is None or not hmac.compare_digest(_hash(match[2]), key.secret_sha256):
        raise _make_unauthorized_error("this API key is unknown, revoked or expired")
    keys.touch(session, key)
    return Caller(key.tenant_id, key.id, frozenset(key.scopes), key.expires_at)


def require_active(session: Session, caller: Caller) -> None:
    """Raise 401 if the caller's key was revoked, or expired, after it was authenticated."""
    if not keys.is_active(session, caller.key_id):
        raise _make_unauthorized_error("this API key was revoked or has expired")


def _make_unauthorized_error(detail: str) -> ServiceError:
    return ServiceError(ErrorCode.UNAUTHORIZED, detail, headers={"WWW-Authenticate": 'Bearer realm="soul"'})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
