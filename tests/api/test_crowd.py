"""Many requests at once: all are served, none waits for what another one holds, and health answers meanwhile."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from soul_store.settings import Settings, get_settings
from tests.api.conftest import ApiClient
from tests.live import live_api


@pytest.fixture
def two_places(settings_env: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API serves two requests at once."""
    monkeypatch.setenv("SOUL_API_CONCURRENCY", "2")
    get_settings.cache_clear()


@pytest.fixture
def url(two_places: None, admin: ApiClient) -> Iterator[str]:
    with live_api() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def job_path(admin: ApiClient, job_body: dict[str, Any]) -> str:
    return f"/v1/jobs/{admin('POST', '/v1/jobs', json=job_body).json()['id']}"


@contextmanager
def locked_jobs(database: Engine) -> Iterator[None]:
    """Make every read of a job wait while the block runs."""
    with database.connect() as connection, connection.begin():
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        yield


def get(url: str, admin: ApiClient, path: str = "") -> httpx2.Response:
    return httpx2.get(url + path, headers={"Authorization": f"Bearer {admin.key}"}, timeout=30)


def test_a_hundred_requests_at_once_are_all_served_by_two_places(url: str, admin: ApiClient, job_path: str) -> None:
    with ThreadPoolExecutor(100) as pool:
        statuses = Counter(pool.map(lambda _: get(url, admin, job_path).status_code, range(200)))

    assert statuses == {200: 200}


def start_reads(number: int, url: str, admin: ApiClient, path: str) -> None:
    """Send requests that wait for the lock, and return when they have arrived."""
    for _ in range(number):
        threading.Thread(target=get, args=(url, admin, path), daemon=True).start()
    time.sleep(0.7)


def test_health_answers_while_every_place_is_taken(url: str, admin: ApiClient, job_path: str, database: Engine) -> None:
    with locked_jobs(database):
        start_reads(6, url, admin, job_path)

        responses = [httpx2.get(url + path, timeout=5) for path in ("/healthz", "/readyz")]

    assert [response.status_code for response in responses] == [200, 200]
    assert sum(response.elapsed.total_seconds() for response in responses) < 2


@pytest.fixture
def one_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_API_MAX_WAITING", "1")


def test_more_requests_than_may_wait_get_a_time_to_retry(
    one_may_wait: None, url: str, admin: ApiClient, job_path: str, database: Engine
) -> None:
    with locked_jobs(database):
        start_reads(4, url, admin, job_path)

        response = get(url, admin, "/v1/models")

    assert (response.status_code, response.json()["code"]) == (503, "busy")
    assert response.headers["Retry-After"] == "1"


def read_until(lines: Iterator[str], wanted: str) -> float:
    """Return the seconds until a line contains a text."""
    started = time.monotonic()
    assert any(wanted in line for line in lines), f"the stream ended without {wanted}"
    return time.monotonic() - started


def test_a_stream_hears_of_a_change_at_once_and_after_its_listener_was_killed(
    url: str, admin: ApiClient, job_path: str, database: Engine
) -> None:
    headers = {"Authorization": f"Bearer {admin.key}"}
    with httpx2.stream("GET", f"{url}{job_path}/events/stream", headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        read_until(lines, "queued")
        with Session(database) as session, session.begin():
            killed = session.scalar(
                text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
            )
        assert killed
        time.sleep(1.5)
        admin("POST", f"{job_path}/cancel")
        seconds = read_until(lines, "cancelled")

    assert seconds < 2
