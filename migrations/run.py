"""Bring a database to the newest schema: what `soul serve`, the containers and the tests call."""

from pathlib import Path

from alembic import command
from alembic.config import Config

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


if __name__ == "__main__":
    upgrade(get_settings().database_url)
