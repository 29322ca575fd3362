"""Each tenant's own key of row digests, by which a reference's log finds its rows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("row_key", sa.Text(), nullable=True))
    # 244 random bits: two version 4 UUIDs, which PostgreSQL draws from its strong generator
    op.execute("UPDATE tenants SET row_key = replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')")
    op.alter_column("tenants", "row_key", nullable=False)


def downgrade() -> None:
    op.drop_column("tenants", "row_key")
