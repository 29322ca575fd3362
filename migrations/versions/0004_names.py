"""Columns named by the glossary: requested_action, depends_on_job_id, retrained_log_id."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = {"wish": "requested_action"}
_CONSTRAINTS = {
    "ck_jobs_wish": "ck_jobs_requested_action",
}


def upgrade() -> None:
    for old, new in _COLUMNS.items():
        op.alter_column("jobs", old, new_column_name=new)
    for old, new in _CONSTRAINTS.items():
        op.execute(f"ALTER TABLE jobs RENAME CONSTRAINT {old} TO {new}")


def downgrade() -> None:
    for old, new in _CONSTRAINTS.items():
        op.execute(f"ALTER TABLE jobs RENAME CONSTRAINT {new} TO {old}")
    for old, new in _COLUMNS.items():
        op.alter_column("jobs", new, new_column_name=old)
