"""Files from the disk by sendfile, over a real server: the same bytes and headers as without it."""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from api import sendfile
from tests.api.conftest import WEIGHTS, ApiClient, Finish
from tests.api.test_artifacts import artifact
from tests.live import live_api


@pytest.fixture
def weights(admin: ApiClient, finish: Finish) -> str:
    return artifact(admin, finish("passed"), "checkpoint/model.safetensors")


@pytest.fixture
def live(admin: ApiClient) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {admin.key}"}
    with live_api() as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
        yield client


@pytest.fixture
def sendfile_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each call of sendfile."""
    counts: list[int] = []
    original = os.sendfile

    def record(target: int, source: int, offset: int, count: int) -> int:
        number = original(target, source, offset, count)
        counts.append(number)
        return number

    monkeypatch.setattr("api.sendfile.os.sendfile", record)
    return counts


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        (None, 200, WEIGHTS),
        ("bytes=2999990-", 206, WEIGHTS[-10:]),
        ("bytes=5-2000004", 206, WEIGHTS[5:2000005]),
        ("bytes=-7", 206, WEIGHTS[-7:]),
    ],
)
def test_bytes_and_headers_are_those_of_a_copied_answer(
    admin: ApiClient,
    live: httpx2.Client,
    weights: str,
    sendfile_counts: list[int],
    wanted: str | None,
    status: int,
    expected: bytes,
) -> None:
    headers = {"Range": wanted} if wanted else {}

    answer = live.get(weights, headers=headers)
    copied = admin("GET", weights, headers=headers)

    assert (answer.status_code, answer.content) == (status, expected)
    assert sum(sendfile_counts) == len(expected)
    compared = ("etag", "repr-digest", "content-length", "content-range", "content-disposition", "accept-ranges")
    assert {name: answer.headers.get(name) for name in compared} == {
        name: copied.headers.get(name) for name in compared
    }


def test_a_connection_serves_further_requests(live: httpx2.Client, weights: str) -> None:
    digests = [hashlib.sha256(live.get(weights).content).hexdigest() for _ in range(3)]

    assert digests == [hashlib.sha256(WEIGHTS).hexdigest()] * 3
    assert live.head(weights).headers["content-length"] == str(len(WEIGHTS))


def test_a_client_that_leaves_half_way_leaves_nothing_open(live: httpx2.Client, weights: str, admin: ApiClient) -> None:
    live.get("/healthz")
    before = open_files()
    for _ in range(5):
        with socket.create_connection((live.base_url.host, live.base_url.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(
                f"GET {weights} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.key}\r\n\r\n".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

    deadline = time.monotonic() + 5
    while (left := open_files() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()
    assert live.get(weights).content == WEIGHTS


def test_a_slow_client_holds_no_thread(live: httpx2.Client, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendfile, "_STALL_MILLISECONDS", 1)
    slow = [socket.create_connection((live.base_url.host, live.base_url.port)) for _ in range(40)]
    for connection in slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET {weights} HTTP/1.1\r\nHost: x\r\nAuthorization: {live.headers['Authorization']}\r\n\r\n"
        connection.sendall(request.encode())

    assert live.get(weights).content == WEIGHTS
    for connection in slow:
        connection.close()


def open_files() -> set[str]:
    """Return the blobs that this process, in which the server runs, has open."""
    names = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            name = str(path.readlink())
        except OSError:
            continue
        if "/blobs/" in name:
            names.add(f"{path.name} {name}")
    return names
