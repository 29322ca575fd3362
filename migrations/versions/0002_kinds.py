"""Jobs of three kinds, with further models, a reference's log, and one job waiting for another."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.Text(), server_default=sa.text("'unlearn'"), nullable=False))
    models = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("jobs", sa.Column("models", models, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("jobs", sa.Column("reference_log_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("after_job_id", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_reference_log_id_artifacts"), "jobs", "artifacts", ["reference_log_id"], ["id"])
    op.create_foreign_key(op.f("fk_jobs_after_job_id_jobs"), "jobs", "jobs", ["after_job_id"], ["id"])
    op.create_check_constraint("kind", "jobs", "kind IN ('unlearn', 'finetune', 'evaluate')")
    op.create_index(
        "ix_jobs_after_job_id",
        "jobs",
        ["after_job_id"],
        unique=False,
        postgresql_where=sa.text("after_job_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_after_job_id", table_name="jobs")
    for column in ("after_job_id", "reference_log_id", "models", "kind"):
        op.drop_column("jobs", column)
