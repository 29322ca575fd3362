"""Advisory locks: named, held by one transaction until it ends, without a row of their own."""

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session


def lock(session: Session, *names: str) -> None:
    """Wait until no other transaction holds the lock of these names, and take it."""
    session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _hash(names)})


def try_lock(session: Session, *names: str) -> bool:
    """Take the lock of these names. False, at once, if another transaction holds it."""
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": _hash(names)}))


def _hash(names: tuple[str, ...]) -> int:
    """Return the names as the 64-bit integer that PostgreSQL locks."""
    return int.from_bytes(hashlib.sha256(" ".join(names).encode()).digest()[:8], "big", signed=True)
