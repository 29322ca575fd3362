"""The tables. Each row of a tenant has its tenant_id. Times are timestamptz on the database's clock."""

import secrets
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Text

from soul_core.report import Verdict
from soul_core.spec import JobKind
from soul_store.column_types import EnumText
from soul_store.job_status import JobStatus

#: The statuses of a job that still needs its inputs. Literal SQL, so that the planner matches queries with the index.
HAS_NOT_FINISHED = text("status IN ('awaiting_approval','queued','running','paused')")


class Base(DeclarativeBase):
    """Base of all tables. Constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it off the class)
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        str: Text,
        int: BigInteger,
        JobKind: EnumText(JobKind),
        JobStatus: EnumText(JobStatus),
        Verdict: EnumText(Verdict),
    }


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


class Job(Base):
    """The truth about a job. Only soul_store.job_state_machine writes `status`; a requested action is a column."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)  # job_...
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    kind: Mapped[JobKind] = mapped_column(server_default=text("'unlearn'"))
    created_by: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    models: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  # name (retrained, ...) -> model id
    retrained_log_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id", use_alter=True))
    depends_on_job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id")
    )  # claimed only after that one has succeeded
    datasets: Mapped[dict[str, Any]]  # set name (forget, retain, general, ...) -> data set id
    spec: Mapped[dict[str, Any]]  # frozen soul_core.spec.JobSpec
    spec_sha256: Mapped[str]
    request_id: Mapped[str | None]  # of the request that submitted it, for the log

    status: Mapped[JobStatus]
    requested_action: Mapped[str | None]  # cancel | pause
    phase: Mapped[str | None]
    verdict: Mapped[Verdict | None]
    status_reason: Mapped[dict[str, Any] | None]  # {code, message, retryable, details[]}
    progress: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    epoch: Mapped[int] = mapped_column(server_default=text("0"))  # fencing token: +1 on every claim
    attempt: Mapped[int] = mapped_column(server_default=text("0"))  # attempts that failed by infrastructure
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    next_attempt_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]  # last time a message went to the broker

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(server_default=text("1"))  # the ETag; +1 on every write
    usage: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    report_blob: Mapped[str | None]
    __table_args__ = (
        CheckConstraint(f"kind IN {tuple(map(str, JobKind))}", name="kind"),
        CheckConstraint(f"status IN {tuple(map(str, JobStatus))}", name="status"),
        CheckConstraint("requested_action IN ('cancel','pause')", name="requested_action"),
        CheckConstraint(f"verdict IN {tuple(map(str, Verdict))}", name="verdict"),
        CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint(
            "(status IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="finished_iff_terminal"
        ),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_depends_on_job_id", "depends_on_job_id", postgresql_where=text("depends_on_job_id IS NOT NULL")),
        Index("ix_jobs_tenant_id_unfinished", "tenant_id", postgresql_where=HAS_NOT_FINISHED),
        Index("ix_jobs_active", "status", postgresql_where=text("status IN ('queued','running')")),
    )


class JobEvent(Base):
    """An event of a job. `seq` counts from 1 within the job and is the id of the server-sent event."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class JobMetric(Base):
    """The metrics of one training step. A resumed step overwrites its row, so a curve has each step once."""

    __tablename__ = "job_metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    values: Mapped[dict[str, Any]]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class JobLogLine(Base):
    """A line of a job's log. `seq` counts from 1 within the job; the numbers of lines left out stay unused."""

    __tablename__ = "job_log_lines"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    attempt: Mapped[int]  # the job's epoch when it was written
    at: Mapped[datetime]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]]


class Artifact(Base):
    """A file that a job made; visible only through the commit that finished the job."""

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(primary_key=True)  # art_...
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    path: Mapped[str]  # relative to the checkpoint folder
    blob: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    __table_args__ = (UniqueConstraint("job_id", "path"),)


class OutboxEntry(Base):
    """A message that must reach the broker: written with the row it refers to, published after commit."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    task: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


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


class Worker(Base):
    """A machine with a worker, and the fastest accelerator that it has."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)  # the host
    accelerator: Mapped[str]  # cpu | cuda
    machine: Mapped[str | None]  # what does its jobs: the name of the GPU, or of the CPU with its cores
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (CheckConstraint("accelerator IN ('cpu','cuda')", name="accelerator"),)


class JobCost(Base):
    """What a finished job cost, on which kind of worker. Refers to no job, tenant or model: it outlives all of them."""

    __tablename__ = "job_costs"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    cost_model_version: Mapped[int]
    accelerator: Mapped[str]  # cpu | cuda
    machine: Mapped[str]  # as in workers
    dtype: Mapped[str]  # of the spec: auto | float32 | bfloat16
    num_parameters: Mapped[int]
    steps: Mapped[int]
    train_tokens: Mapped[int]
    flops: Mapped[float]  # of the training, as the report states them
    num_attacks: Mapped[int]
    work: Mapped[dict[str, Any]]  # phase -> work, as the cost model counted it
    seconds: Mapped[dict[str, Any]]  # phase -> seconds, only of phases that one attempt ran alone
    planned_memory_bytes: Mapped[int]  # by the cost model
    peak_memory_bytes: Mapped[int | None]  # absent: the job was resumed
    __table_args__ = (
        CheckConstraint("accelerator IN ('cpu','cuda')", name="accelerator"),
        Index("ix_job_costs_machine_dtype", "cost_model_version", "accelerator", "machine", "dtype", "id"),
        Index("ix_job_costs_recent", "cost_model_version", "id"),
    )
