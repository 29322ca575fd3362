"""Jobs and what they report: events, metrics, log lines, artifacts."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Float, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from soul_core.report import Verdict
from soul_core.spec import JobKind
from soul_store.job_priority import JobPriority
from soul_store.job_status import JobStatus
from soul_store.tables.base import Base

#: The statuses of a job that still needs its inputs. Literal SQL, so that the planner matches queries with the index.
HAS_NOT_FINISHED = text("status IN ('awaiting_approval','queued','running','paused')")

#: A job that was claimed at least once and has not finished.
HAS_BEGUN = text("claimed_at IS NOT NULL AND finished_at IS NULL")


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
    retry_of_job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))

    priority: Mapped[JobPriority] = mapped_column(server_default=text("'normal'"))
    deadline: Mapped[datetime | None]  # a job that has not finished then fails
    max_gpu_seconds: Mapped[float | None] = mapped_column(Float)  # of all attempts, from claim to end
    user_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    accelerator: Mapped[str | None]  # that its worker must have: cpu | cuda; absent: any
    required_memory_bytes: Mapped[int | None]  # that its worker must have; absent: unknown

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
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())  # submitted, or resumed after a pause
    claimed_at: Mapped[datetime | None]  # start of the latest attempt
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
        CheckConstraint(f"priority IN {tuple(map(str, JobPriority))}", name="priority"),
        CheckConstraint("accelerator IN ('cpu','cuda')", name="accelerator"),
        CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint(
            "(status IN ('succeeded','failed','cancelled')) = (finished_at IS NOT NULL)", name="finished_iff_terminal"
        ),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_depends_on_job_id", "depends_on_job_id", postgresql_where=text("depends_on_job_id IS NOT NULL")),
        Index("ix_jobs_tenant_id_unfinished", "tenant_id", postgresql_where=HAS_NOT_FINISHED),
        Index("ix_jobs_active", "status", postgresql_where=text("status IN ('queued','running')")),
        # what projects have used lately: a claim reads it
        Index("ix_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index("ix_jobs_begun", "tenant_id", postgresql_where=HAS_BEGUN),
        Index("ix_jobs_deadline", "deadline", postgresql_where=text("deadline IS NOT NULL AND finished_at IS NULL")),
        Index("ix_jobs_retry_of_job_id", "retry_of_job_id", postgresql_where=text("retry_of_job_id IS NOT NULL")),
        Index("ix_jobs_metadata", "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
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
