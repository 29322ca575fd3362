"""Uploads that are cut off half way, over a real connection."""

import socket
import time
from pathlib import Path

from api.store.settings import Settings
from tests.api.conftest import ROWS, As, jsonl
from tests.live import live_api


def files_in(settings_env: Settings) -> list[Path]:
    folders = (Path(settings_env.blobs_url.removeprefix("file://")), settings_env.scratch_dir)
    return [path for folder in folders if folder.exists() for path in folder.rglob("*") if path.is_file()]


def test_an_upload_cut_off_half_way_leaves_nothing_and_can_be_sent_again(admin: As, settings_env: Settings) -> None:
    made = admin("POST", "/v1/datasets", json={"name": "late"}).json()
    content = jsonl(ROWS * 1000)
    head = f"PUT /v1/datasets/{made['id']}/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.key}\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with live_api() as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + content[: len(content) // 2])
            time.sleep(0.3)
        deadline = time.monotonic() + 5
        while files_in(settings_env) and time.monotonic() < deadline:
            time.sleep(0.05)

    assert files_in(settings_env) == []
    assert [row["status"] for row in admin("GET", "/v1/datasets").json()["data"]] == ["awaiting_content"]
    again = admin("PUT", f"/v1/datasets/{made['id']}/content", content=content)
    assert again.json()["num_rows"] == 4000
