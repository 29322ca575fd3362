"""Triggers that tell listeners which job or API key changed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TRIGGERS = {
    "jobs": ("INSERT OR UPDATE", "id"),
    "job_events": ("INSERT", "job_id"),
    "job_metrics": ("INSERT OR UPDATE", "job_id"),
    "api_keys": ("UPDATE OF revoked_at, expires_at", "id"),
}


def upgrade() -> None:
    op.execute(
        """
        CREATE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          PERFORM pg_notify('soul_changes', to_jsonb(NEW) ->> TG_ARGV[0]);
          RETURN NULL;
        END $$
        """
    )
    for table, (events, column) in _TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER notify_change AFTER {events} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION notify_change('{column}')"
        )


def downgrade() -> None:
    for table in _TRIGGERS:
        op.execute(f"DROP TRIGGER notify_change ON {table}")
    op.execute("DROP FUNCTION notify_change()")
