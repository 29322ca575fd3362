"""Priorities, limits, metadata and retries of jobs; the registry of workers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_JOB_COLUMNS = (
    "retry_of_job_id",
    "priority",
    "deadline",
    "max_gpu_seconds",
    "metadata",
    "accelerator",
    "required_memory_bytes",
    "queued_at",
    "claimed_at",
)
_INDEXES = (
    "ix_jobs_finished_at",
    "ix_jobs_begun",
    "ix_jobs_deadline",
    "ix_jobs_retry_of_job_id",
    "ix_jobs_metadata",
)
_WORKER_COLUMNS = ("device_id", "memory_bytes", "ram_bytes", "load", "versions", "is_draining", "started_at")


def upgrade() -> None:
    time, empty = TIMESTAMP(timezone=True), sa.text("'{}'")
    op.add_column("jobs", sa.Column("retry_of_job_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("priority", sa.Text(), server_default=sa.text("'normal'"), nullable=False))
    op.add_column("jobs", sa.Column("deadline", time, nullable=True))
    op.add_column("jobs", sa.Column("max_gpu_seconds", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("metadata", JSONB(), server_default=empty, nullable=False))
    op.add_column("jobs", sa.Column("accelerator", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("required_memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("queued_at", time, server_default=sa.func.now(), nullable=False))
    op.add_column("jobs", sa.Column("claimed_at", time, nullable=True))
    # jobs of earlier versions: they wait since they were created, and may need a GPU
    op.execute("UPDATE jobs SET queued_at = created_at, claimed_at = started_at")
    op.execute("UPDATE jobs SET accelerator = spec->>'device' WHERE spec->>'device' IN ('cpu', 'cuda')")
    op.create_foreign_key(op.f("fk_jobs_retry_of_job_id_jobs"), "jobs", "jobs", ["retry_of_job_id"], ["id"])
    op.create_check_constraint(op.f("ck_jobs_priority"), "jobs", "priority IN ('low', 'normal', 'high')")
    op.create_check_constraint(op.f("ck_jobs_accelerator"), "jobs", "accelerator IN ('cpu','cuda')")
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"], postgresql_where=sa.text("finished_at IS NOT NULL"))
    has_begun = sa.text("claimed_at IS NOT NULL AND finished_at IS NULL")
    op.create_index("ix_jobs_begun", "jobs", ["tenant_id"], postgresql_where=has_begun)
    has_deadline = sa.text("deadline IS NOT NULL AND finished_at IS NULL")
    op.create_index("ix_jobs_deadline", "jobs", ["deadline"], postgresql_where=has_deadline)
    is_retry = sa.text("retry_of_job_id IS NOT NULL")
    op.create_index("ix_jobs_retry_of_job_id", "jobs", ["retry_of_job_id"], postgresql_where=is_retry)
    op.create_index(
        "ix_jobs_metadata", "jobs", ["metadata"], postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}
    )
    op.execute("DELETE FROM workers")  # named by host so far; running workers report again within seconds
    op.add_column("workers", sa.Column("device_id", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("ram_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("load", sa.Float(), nullable=True))
    op.add_column("workers", sa.Column("versions", JSONB(), server_default=empty, nullable=False))
    op.add_column("workers", sa.Column("is_draining", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    now = sa.func.clock_timestamp()
    op.add_column("workers", sa.Column("started_at", time, server_default=now, nullable=False))


def downgrade() -> None:
    for name in _WORKER_COLUMNS:
        op.drop_column("workers", name)
    for name in _INDEXES:
        op.drop_index(name, table_name="jobs")
    for name in _JOB_COLUMNS:
        op.drop_column("jobs", name)
