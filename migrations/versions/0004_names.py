"""Columns named by the glossary: requested_action, depends_on_job_id, retrained_log_id."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = {"wish": "requested_action", "after_job_id": "depends_on_job_id", "reference_log_id": "retrained_log_id"}
_CONSTRAINTS = {
    "ck_jobs_wish": "ck_jobs_requested_action",
    "fk_jobs_after_job_id_jobs": "fk_jobs_depends_on_job_id_jobs",
    "fk_jobs_reference_log_id_artifacts": "fk_jobs_retrained_log_id_artifacts",
}


# A spec that was accepted under the old names cannot be run under the new ones, and a guess must not change a job.
_END_UNFINISHED = """
UPDATE jobs SET status = 'failed', finished_at = now(), lease_until = NULL, worker = NULL, phase = NULL,
  progress = '{}'::jsonb, wish = NULL, version = version + 1, updated_at = now(),
  status_reason = jsonb_build_object('code', 'upgraded', 'retryable', true, 'details', '[]'::jsonb, 'message',
    'this job was submitted to an earlier version of SOUL, whose specs had other field names; submit it again')
WHERE status NOT IN ('succeeded', 'failed', 'cancelled')
"""


def upgrade() -> None:
    op.execute(_END_UNFINISHED)
    for old, new in _COLUMNS.items():
        op.alter_column("jobs", old, new_column_name=new)
    for old, new in _CONSTRAINTS.items():
        op.execute(f"ALTER TABLE jobs RENAME CONSTRAINT {old} TO {new}")
    op.execute("ALTER INDEX ix_jobs_after_job_id RENAME TO ix_jobs_depends_on_job_id")


def downgrade() -> None:
    op.execute("ALTER INDEX ix_jobs_depends_on_job_id RENAME TO ix_jobs_after_job_id")
    for old, new in _CONSTRAINTS.items():
        op.execute(f"ALTER TABLE jobs RENAME CONSTRAINT {new} TO {old}")
    for old, new in _COLUMNS.items():
        op.alter_column("jobs", new, new_column_name=old)
