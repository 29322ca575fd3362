"""Who uses the service: tenants, API keys, what they did, answers kept for repeated requests."""

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, func, text
from sqlalchemy.orm import Mapped, mapped_column

from soul_store.tables.base import Base


class Tenant(Base):
    """A project: separates users from each other. Each resource belongs to exactly one tenant."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)  # prj_...
    name: Mapped[str] = mapped_column(unique=True)
    #: Key of the row digests in reports; never shown.
    row_key: Mapped[str] = mapped_column(default=lambda: secrets.token_hex(32))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A credential. Only the sha256 of the 256-bit secret is kept; `prefix` finds the row and shows in lists."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)  # key_...
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """Who did what to which resource. Append-only."""

    __tablename__ = "audit_entries"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    actor: Mapped[str]  # key_... or "system"
    action: Mapped[str]  # job.create, dataset.delete, ...
    resource: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class IdempotencyKey(Base):
    """The stored response to a request, written in that request's own transaction."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    status_code: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
