"""Bring a database to the newest schema: what `soul serve`, the containers and the tests call."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from soul_store.database import make_engine
from soul_store.settings import get_settings


def make_config(url: str) -> Config:
    """Return Alembic's configuration without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Run every migration that has not run yet."""
    command.upgrade(make_config(url), "head")


def check(url: str) -> None:
    """Raise when the migrated schema is not what the tables declare."""
    command.check(make_config(url))


def read_revisions(url: str) -> tuple[str | None, str | None]:
    """Return the revision of a database's schema, None if it has none, and the newest revision of this version."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return current, ScriptDirectory.from_config(make_config(url)).get_current_head()


if __name__ == "__main__":
    upgrade(get_settings().database_url)
