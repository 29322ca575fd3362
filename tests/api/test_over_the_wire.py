"""Behavior that only a real connection shows: interrupted forms, chunked bodies, open streams."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from api.middleware import MAX_JSON_BYTES
from soul_store.settings import Settings
from tests.api.conftest import ROWS, ApiClient, files_in, jsonl, problem
from tests.live import live_api


@pytest.fixture
def wire(admin: ApiClient) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {admin.key}"}
    with live_api() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client:
        yield client


def wait_for_files(settings_env: Settings, *, exist: bool) -> None:
    deadline = time.monotonic() + 10
    while bool(files_in(settings_env)) is not exist and time.monotonic() < deadline:
        time.sleep(0.02)
    assert bool(files_in(settings_env)) is exist


def test_an_interrupted_upload_leaves_no_file_and_can_be_sent_again(admin: ApiClient, settings_env: Settings) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    content = jsonl(ROWS * 1000)
    head = f"PUT /v1/datasets/{made['id']}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.key}\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with live_api() as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + content[: len(content) // 2])
            wait_for_files(settings_env, exist=True)
        wait_for_files(settings_env, exist=False)

    assert [row["status"] for row in admin("GET", "/v1/datasets").json()["data"]] == ["awaiting_content"]
    again = admin("PUT", f"/v1/datasets/{made['id']}/content", content=content)
    assert again.json()["num_rows"] == 4000


def test_a_form_interrupted_inside_its_file_creates_no_data_set(wire: httpx.Client, settings_env: Settings) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    half = head + jsonl(ROWS)
    lines = ["POST /v1/datasets HTTP/1.1", "Host: test", f"Authorization: {wire.headers['authorization']}"]
    lines += [f"Content-Length: {2 * len(half)}", "Content-Type: multipart/form-data; boundary=x", "", ""]

    with socket.create_connection((wire.base_url.host, wire.base_url.port or 80)) as connection:
        connection.sendall("\r\n".join(lines).encode() + half)
        time.sleep(0.3)

    time.sleep(0.3)
    assert files_in(settings_env) == []
    assert wire.get("/v1/datasets").json()["data"] == []


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets"])
def test_a_chunked_body_is_limited_too(wire: httpx.Client, path: str) -> None:
    chunks = (b" " * (1 << 20) for _ in range(MAX_JSON_BYTES // (1 << 20) + 1))

    answer = wire.post(path, content=chunks, headers={"Content-Type": "application/json"})

    problem(answer, 413, "too_large")


def test_a_stream_without_events_sends_keep_alives(
    wire: httpx.Client, job_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The framework's own, every 15 seconds: proxies close idle connections."""
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.2)
    job = f"/v1/jobs/{wire.post('/v1/jobs', json=job_body).json()['id']}"

    with wire.stream("GET", f"{job}/events/stream") as stream:
        assert next(line for line in stream.iter_lines() if line.startswith(":")) == ": ping"


def test_open_streams_hold_no_database_connection_and_end_with_the_job(
    wire: httpx.Client, job_body: dict[str, Any]
) -> None:
    """Forty streams: more than the thirty connections of the pool."""
    job = f"/v1/jobs/{wire.post('/v1/jobs', json=job_body).json()['id']}"
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(wire.stream("GET", f"{job}/events/stream")) for _ in range(40)]
        assert {stream.status_code for stream in streams} == {200}

        started = time.monotonic()
        assert wire.post(f"{job}/cancel").json()["status"] == "cancelled"
        assert time.monotonic() - started < 5

        for stream in streams:
            last = stream.read().decode().rsplit("data:", 1)[1]
            assert json.loads(last.partition("\n")[0])["data"]["status"] == "cancelled"
