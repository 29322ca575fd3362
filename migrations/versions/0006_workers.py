"""The workers of the fleet; the unfinished jobs of a tenant."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_HAS_NOT_FINISHED = sa.text("status IN ('awaiting_approval','queued','running','paused')")


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("accelerator", sa.Text(), nullable=False),
        sa.Column(
            "seen_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("accelerator IN ('cpu','cuda')", name=op.f("ck_workers_accelerator")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index("ix_jobs_tenant_id_unfinished", "jobs", ["tenant_id"], postgresql_where=_HAS_NOT_FINISHED)


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_id_unfinished", table_name="jobs")
    op.drop_table("workers")
