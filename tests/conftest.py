"""What every test may ask for: real servers, a migrated database, settings, a tenant with its key."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from migrations.run import upgrade
from soul_store.database import make_engine
from soul_store.settings import Settings, get_settings
from tests.paths import SHARED
from tests.servers import Servers, running_servers

#: Folders whose tests wait for real processes.
_WAITING = ("worker", "e2e", "soul_cli")
SHARED_DATA = SHARED / "data"

# One thread per process: two cores are shared by servers, worker and engine, and results repeat bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A suite that was started in the background ignores Ctrl-C, and so would the programs whose Ctrl-C it tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: a third of the suite's time is spent waiting for services."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that wait: the others fill the time beside them, and no long file is left for the end."""
    folders = {folder: place for place, folder in enumerate(_WAITING)}
    items.sort(key=lambda item: folders.get(item.path.parent.name, len(_WAITING)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the checkout; a test that needs them skips where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with running_servers() as running:
        yield running


@pytest.fixture(scope="session")
def database_url(servers: Servers) -> str:
    """A migrated database."""
    url = servers.postgres.make_url()
    upgrade(url)
    return url


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    return servers.valkey.url


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings_env(
    database_url: str, redis_url: str, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """This test's settings: empty tables, an empty broker, its own blobs and scratch folder."""
    with database.begin() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        names = ", ".join(f'"{name}"' for name in tables if name != "alembic_version")
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    (tmp_path / "blobs").mkdir()
    monkeypatch.setenv("SOUL_DATABASE_URL", database_url)
    monkeypatch.setenv("SOUL_REDIS_URL", redis_url)
    monkeypatch.setenv("SOUL_BLOBS_URL", f"file://{tmp_path / 'blobs'}")
    monkeypatch.setenv("SOUL_SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("SOUL_MODEL_ROOTS", "/")
    monkeypatch.setenv("SOUL_LEASE_SECONDS", "2")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def session(settings_env: Settings, database: Engine) -> Iterator[Session]:
    """A session on empty tables; the test commits."""
    with Session(database) as open_session:
        yield open_session
