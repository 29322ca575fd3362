"""What finished jobs cost, which estimates learn from; the machine of each worker."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_costs",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("cost_model_version", sa.BigInteger(), nullable=False),
        sa.Column("accelerator", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("num_parameters", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("train_tokens", sa.BigInteger(), nullable=False),
        sa.Column("flops", sa.Float(), nullable=False),
        sa.Column("num_attacks", sa.BigInteger(), nullable=False),
        sa.Column("work", JSONB(), nullable=False),
        sa.Column("seconds", JSONB(), nullable=False),
        sa.Column("planned_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("accelerator IN ('cpu','cuda')", name=op.f("ck_job_costs_accelerator")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_costs")),
    )
    kind = ["cost_model_version", "accelerator", "machine", "dtype", "id"]
    op.create_index("ix_job_costs_machine_dtype", "job_costs", kind)
    op.create_index("ix_job_costs_recent", "job_costs", ["cost_model_version", "id"])
    op.add_column("workers", sa.Column("machine", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "machine")
    op.drop_table("job_costs")
