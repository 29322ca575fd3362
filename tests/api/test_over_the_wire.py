"""What only a real connection shows: uploads cut off, bodies of no announced length, streams that stay open."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.middleware import MAX_JSON_BYTES
from api.store.settings import Settings
from tests.api.conftest import ROWS, As, jsonl, problem
from tests.api.test_datasets import files_in


@pytest.fixture
def server(settings_env: Settings) -> Iterator[str]:
    """uvicorn as `soul serve` starts it; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "api.main:create_app", "--factory", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, "--log-level", "warning"], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(lambda: httpx.get(f"{url}/healthz").status_code == 200)
            yield url
        finally:
            process.terminate()


@pytest.fixture
def wire(server: str, admin: As) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {admin.key}"}, timeout=20) as client:
        yield client


def _wait_for(done: Any) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in 20 s")


def _send_half(wire: httpx.Client, method: str, path: str, content: bytes, **headers: str) -> None:
    """Announce twice the content, send it once, hang up."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Authorization: {wire.headers['authorization']}"]
    lines += [f"Content-Length: {2 * len(content)}", *(f"{name.replace('_', '-')}: {v}" for name, v in headers.items())]
    url = urlsplit(str(wire.base_url))
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        time.sleep(0.3)


def test_an_upload_cut_off_half_way_leaves_nothing_and_can_be_sent_again(
    wire: httpx.Client, settings_env: Settings
) -> None:
    made = wire.post("/v1/datasets", json={"name": "late"}).json()
    path = f"/v1/datasets/{made['id']}"

    _send_half(wire, "PUT", f"{path}/content", jsonl(ROWS))

    _wait_for(lambda: files_in(settings_env) == [])
    assert wire.get(path).json()["status"] == "awaiting_content"
    assert wire.put(f"{path}/content", content=jsonl(ROWS)).json()["status"] == "ready"


def test_a_form_cut_off_half_way_makes_no_data_set(wire: httpx.Client, settings_env: Settings) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'

    _send_half(wire, "POST", "/v1/datasets", head + jsonl(ROWS), Content_Type="multipart/form-data; boundary=x")

    _wait_for(lambda: files_in(settings_env) == [])
    assert wire.get("/v1/datasets").json()["data"] == []


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets"])
def test_a_body_of_no_announced_length_is_measured_as_it_comes(wire: httpx.Client, path: str) -> None:
    chunks = (b" " * (1 << 20) for _ in range(MAX_JSON_BYTES // (1 << 20) + 1))

    answer = wire.post(path, content=chunks, headers={"Content-Type": "application/json"})

    problem(answer, 413, "too_large")


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
