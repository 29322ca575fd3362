"""What a process tells Prometheus: its connection pool, and the figures that only the database knows."""

import urllib.request
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, create_engine, delete, event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from soul_cli.embedded.ports import find_free_port
from soul_store import service_metrics
from soul_store.job_status import JobStatus
from soul_store.metrics import MeasuredPool, start_metrics_server
from soul_store.service_metrics import ServiceCollector
from soul_store.settings import ProcessSettings, get_settings
from soul_store.tables import Job, OutboxEntry
from tests.fixtures.samples import read_samples

POOL_ERRORS = "soul_database_pool_errors_total"


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry whose only collector reads the database."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector())
    return registry


@pytest.fixture
def small_pool(database_url: str) -> Engine:
    return create_engine(database_url, poolclass=MeasuredPool, pool_size=1, max_overflow=0, pool_timeout=0.2)


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that any engine executes."""
    texts: list[str] = []

    def record(*arguments: object) -> None:
        texts.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", record)
    yield texts
    event.remove(Engine, "before_cursor_execute", record)


def test_the_age_of_the_queue_counts_only_jobs_that_could_run(
    session: Session, new_job: Callable[[], Job], registry: CollectorRegistry
) -> None:
    first, waiting = new_job(), new_job()
    waiting.depends_on_job_id = first.id
    session.execute(delete(OutboxEntry).where(OutboxEntry.id == 2))
    session.commit()

    assert read_samples("soul_jobs", registry)["queued",] == 2
    assert read_samples("soul_jobs_due", registry) == {(): 1}
    assert 0 < read_samples("soul_queue_age_seconds", registry)[()] < 60
    assert read_samples("soul_outbox_messages", registry) == {(): 1}
    assert set(read_samples("soul_jobs", registry)) == {(status,) for status in JobStatus}


def test_an_empty_queue_has_no_age(session: Session, registry: CollectorRegistry) -> None:
    assert read_samples("soul_queue_age_seconds", registry) == {(): 0}
    assert read_samples("soul_outbox_age_seconds", registry) == {(): 0}


def test_two_scrapes_at_once_query_the_database_once(
    session: Session, new_job: Callable[[], Job], registry: CollectorRegistry
) -> None:
    read_samples("soul_jobs_due", registry)
    new_job()

    assert read_samples("soul_jobs_due", registry) == {(): 0}, "the figures are up to ten seconds old"


def test_a_database_that_is_away_is_a_figure_not_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    monkeypatch.setenv("SOUL_DATABASE_URL", "postgresql+psycopg://soul@127.0.0.1:1/nothing")
    get_settings.cache_clear()

    assert read_samples("soul_database_up", registry) == {(): 0}
    assert read_samples("soul_jobs", registry) == {}


def test_waiting_for_the_pool_is_measured(small_pool: Engine) -> None:
    waits, errors = (read_samples(name).get((), 0) for name in ("soul_database_pool_wait_seconds_sum", POOL_ERRORS))

    with small_pool.connect(), pytest.raises(PoolTimeoutError):
        small_pool.connect()
    small_pool.dispose()

    assert read_samples("soul_database_pool_wait_seconds_sum")[()] - waits >= 0.2
    assert read_samples(POOL_ERRORS)[()] - errors == 1


def test_metrics_are_off_unless_a_port_is_set() -> None:
    assert start_metrics_server(ProcessSettings()) is None


def test_a_taken_port_costs_the_metrics_and_not_the_process() -> None:
    settings = ProcessSettings(metrics_port=find_free_port())

    assert start_metrics_server(settings) == settings.metrics_port
    assert start_metrics_server(settings) is None
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics", timeout=5) as answer:
        assert b"soul_http_requests_in_flight" in answer.read()


def test_the_figures_are_read_in_one_query(session: Session, statements: list[str]) -> None:
    service_metrics.read_statistics()

    assert len([text for text in statements if text.startswith("SELECT")]) == 1
