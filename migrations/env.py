"""Alembic's entry: the metadata is soul_store.tables."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from soul_store.tables import Base

#: Two processes that start together must not migrate together.
ADVISORY_LOCK = 7_340_001


def main() -> None:
    """Run the migrations asked for on the configured database."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK})
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


main()
