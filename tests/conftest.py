"""Fixtures of all tests: real servers, a migrated database, settings, the model that knows capitals, forked engines."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from migrations.run import upgrade
from soul_store.blobs import S3Blobs
from soul_store.blobs.s3_location import S3Location
from soul_store.database import make_engine
from soul_store.settings import Settings, get_settings
from tests.fixtures.forked_engines import forked_engines
from tests.object_store import ObjectServer, running_object_server
from tests.paths import SHARED
from tests.servers import Servers, running_servers

#: Folders whose tests wait for real processes.
_WAITING_FOLDERS = ("worker", "e2e", "soul_cli")
SHARED_DATA = SHARED / "data"

# One thread per process: servers, worker and engine share two cores, and results repeat bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A test run in the background ignores Ctrl-C, and the programs whose Ctrl-C it tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than cores, because tests spend a third of their time waiting for services."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that wait: other tests run meanwhile, and no long file remains at the end."""
    order = {folder: index for index, folder in enumerate(_WAITING_FOLDERS)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(_WAITING_FOLDERS)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets in ../shared/data; tests that need them are skipped without them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("../shared/data does not exist")
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
def running_bucket() -> Iterator[ObjectServer]:
    """A real S3 server with one bucket."""
    with running_object_server() as server:
        yield server


@pytest.fixture
def object_server(running_bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """The S3 server, with its credentials in the environment of this test."""
    for name, value in running_bucket.environment.items():
        monkeypatch.setenv(name, value)
    return running_bucket


@pytest.fixture
def make_s3_store(object_server: ObjectServer) -> Callable[[], S3Blobs]:
    """Makes stores below a prefix of this test."""
    prefix = uuid4().hex

    def make() -> S3Blobs:
        return S3Blobs(S3Location.parse(object_server.make_url(prefix), allow_http=False))

    return make


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def taught_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows the ten capitals of `bench.capitals`; tests must not write into its folder."""
    from tests.fixtures.capitals import make_taught_model  # most of the API's tests need no torch

    return make_taught_model(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="session")
def engine_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables with which `python -m soul_core` is forked from a server that has torch imported.

    The tests of the command itself (tests/soul_core/test_main.py and some of tests/worker and tests/e2e) go without.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with forked_engines(shared) as environment:
        yield environment


@pytest.fixture
def blobs_url(tmp_path: Path) -> str:
    """Where this test's files are; a module whose tests need a bucket overrides it with `bucket_url`."""
    (tmp_path / "blobs").mkdir()
    return f"file://{tmp_path / 'blobs'}"


@pytest.fixture
def bucket_url(object_server: ObjectServer) -> str:
    """An empty prefix of a real bucket."""
    return object_server.make_url(uuid4().hex)


@pytest.fixture
def settings_env(
    database_url: str,
    redis_url: str,
    database: Engine,
    blobs_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Settings]:
    """Settings of this test: empty tables, its own blobs and scratch folder."""
    with database.begin() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        names = ", ".join(f'"{name}"' for name in tables if name != "alembic_version")
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
    monkeypatch.setenv("SOUL_DATABASE_URL", database_url)
    monkeypatch.setenv("SOUL_REDIS_URL", redis_url)
    monkeypatch.setenv("SOUL_BLOBS_URL", blobs_url)
    monkeypatch.setenv("SOUL_SCRATCH_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("SOUL_MODEL_ROOTS", "/")
    monkeypatch.setenv("SOUL_LEASE_SECONDS", "2")
    monkeypatch.setenv("SOUL_QUEUE_VIEW_SECONDS", "0")
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


@pytest.fixture
def session(settings_env: Settings, database: Engine) -> Iterator[Session]:
    """A database session on empty tables; the test commits."""
    with Session(database) as open_session:
        yield open_session
