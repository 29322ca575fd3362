"""What jobs work on: data sets and models."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, func, text
from sqlalchemy.orm import Mapped, mapped_column

from soul_store.tables.base import Base


class Dataset(Base):
    """An uploaded data set. `status`: awaiting_content (metadata first), ready, invalid."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(primary_key=True)  # ds_...
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    format: Mapped[str | None]  # jsonl | csv | parquet | text
    mapping: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # canonical column -> file column
    status: Mapped[str]
    blob: Mapped[str | None]  # the canonical JSONL the engine reads
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]  # of the bytes as uploaded
    content_sha256: Mapped[str | None]  # of the canonical rows: equal content, whatever the format
    num_rows: Mapped[int | None]
    validation: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("status IN ('awaiting_content','ready','invalid')", name="status"),)


class Model(Base):
    """A registered model. `location` is where the engine finds it; `digest` identifies its content."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)  # mdl_...
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    source: Mapped[str]  # hub | local | gguf | job
    location: Mapped[str]  # hub id, absolute path, or blob prefix
    revision: Mapped[str | None]  # hub commit
    digest: Mapped[str | None]
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # architecture, num_parameters, ...
    parent_job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", use_alter=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("source IN ('hub','local','gguf','job')", name="source"),)
