"""Uploads that are cut off half way, over a real connection."""

import socket
import time

from soul_store.settings import Settings
from tests.api.conftest import ROWS, As, files_in, jsonl
from tests.live import live_api


def wait_for_files(settings_env: Settings, *, there: bool) -> None:
    deadline = time.monotonic() + 10
    while bool(files_in(settings_env)) is not there and time.monotonic() < deadline:
        time.sleep(0.02)
    assert bool(files_in(settings_env)) is there


def test_an_upload_cut_off_half_way_leaves_nothing_and_can_be_sent_again(admin: As, settings_env: Settings) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    content = jsonl(ROWS * 1000)
    head = f"PUT /v1/datasets/{made['id']}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.key}\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with live_api() as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + content[: len(content) // 2])
            wait_for_files(settings_env, there=True)
        wait_for_files(settings_env, there=False)

    assert [row["status"] for row in admin("GET", "/v1/datasets").json()["data"]] == ["awaiting_content"]
    again = admin("PUT", f"/v1/datasets/{made['id']}/content", content=content)
    assert again.json()["num_rows"] == 4000
