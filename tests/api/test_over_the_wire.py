"""What only a real connection shows: forms cut off, bodies of no announced length, streams that stay open."""

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
from tests.api.conftest import ROWS, As, files_in, jsonl, problem
from tests.live import live_api


@pytest.fixture
def wire(admin: As) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {admin.key}"}
    with live_api() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client:
        yield client


def test_a_form_cut_off_inside_its_file_makes_no_data_set(wire: httpx.Client, settings_env: Settings) -> None:
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
def test_a_body_of_no_announced_length_is_measured_as_it_comes(wire: httpx.Client, path: str) -> None:
    chunks = (b" " * (1 << 20) for _ in range(MAX_JSON_BYTES // (1 << 20) + 1))

    answer = wire.post(path, content=chunks, headers={"Content-Type": "application/json"})

    problem(answer, 413, "too_large")


def test_a_stream_with_nothing_to_tell_sends_a_sign_of_life(
    wire: httpx.Client, job_body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The framework's own, every 15 seconds: proxies cut what is silent."""
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.2)
    job = f"/v1/jobs/{wire.post('/v1/jobs', json=job_body).json()['id']}"

    with wire.stream("GET", f"{job}/events/stream") as stream:
        assert next(line for line in stream.iter_lines() if line.startswith(":")) == ": ping"


def test_open_streams_hold_no_connection_of_the_database_and_end_with_the_job(
    wire: httpx.Client, job_body: dict[str, Any]
) -> None:
    """Forty of them: more than the pool's thirty connections."""
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
