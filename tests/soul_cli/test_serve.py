"""`soul serve` starts all processes, prints its URL and key, stops all processes, and keeps its data."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import pytest

from soul_cli.embedded.ports import find_free_port


def list_processes(folder: Path) -> list[str]:
    """Return the command lines of running processes that have `folder` in their command line or environment."""
    command_lines = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            texts = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
        except OSError:
            continue
        if any(str(folder).encode() in text for text in texts) and texts[0]:
            command_lines.append(texts[0].replace(b"\0", b" ").decode())
    return command_lines


def wait_until(ready: Callable[[], bool], *, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.1)
    return ready()


@dataclass
class Serving:
    data: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "soul_cli.main", "serve", "--data", str(self.data), *options]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOUL_")}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**inherited, **environment}
        )
        self.started.append(process)
        return process

    def read_until_ready(self, process: subprocess.Popen[str]) -> str:
        """Return the output up to the last line of the start."""
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if "Ctrl-C" in line:
                return output
        pytest.fail(f"it ended with code {process.wait()}: {output}")

    def read_connection(self) -> dict[str, str]:
        connection: dict[str, str] = json.loads((self.data / "connection.json").read_text())
        return connection

    def get(self, path: str) -> dict[str, object]:
        connection = self.read_connection()
        headers = {"Authorization": f"Bearer {connection['api_key']}"}
        request = urllib.request.Request(connection["url"] + path, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: dict[str, object] = json.load(answer)
            return body


@pytest.fixture
def serving() -> Iterator[Serving]:
    folder = Path(tempfile.mkdtemp(prefix="soul-serve-"))
    folder.chmod(0o711)
    service = Serving(folder / "data")
    yield service
    for process in service.started:
        process.kill()
        process.communicate()
    assert wait_until(lambda: list_processes(folder) == [], seconds=10), list_processes(folder)
    rmtree(folder)


def test_the_service_keeps_its_data_and_leaves_no_process(serving: Serving) -> None:
    first = serving.start("--port", "0")
    output = serving.read_until_ready(first)
    key = serving.read_connection()["api_key"]
    assert key in output
    assert serving.read_connection()["url"] in output
    assert str(serving.data) in output
    assert (serving.data / "connection.json").stat().st_mode & 0o777 == 0o600
    me = serving.get("/v1/me")

    started = time.monotonic()
    first.send_signal(signal.SIGINT)
    assert first.wait(15) == 0
    assert time.monotonic() - started < 10
    assert list_processes(serving.data) == []

    second = serving.start("--port", "0")
    output = serving.read_until_ready(second)
    assert key not in output, "the key is shown once"
    assert serving.get("/v1/me") == me, "the same project and key"

    # A killed supervisor leaves no process either.
    second.kill()
    second.wait()
    assert wait_until(lambda: list_processes(serving.data) == []), list_processes(serving.data)

    third = serving.start("--port", "0")
    serving.read_until_ready(third)
    assert serving.get("/v1/me") == me

    # A second service on the same folder is refused.
    other = serving.start("--port", "0")
    output, _ = other.communicate(timeout=30)
    assert other.returncode == 1
    assert output.startswith("soul serve: another soul serve runs on")
    assert len(output.splitlines()) == 1

    # A server that ends alone is restarted, with its rows.
    postgres = next(
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.read_bytes().startswith(b"/")
        and b"bin/postgres\0-D\0" + str(serving.data).encode() in path.read_bytes()
    )
    os.kill(postgres, signal.SIGKILL)

    def answers() -> bool:
        try:
            return serving.get("/v1/me") == me
        except OSError:
            return False

    time.sleep(0.5)
    assert wait_until(answers)
    third.send_signal(signal.SIGTERM)
    output, _ = third.communicate(timeout=15)
    assert "Postgres ended unexpectedly" in output
    assert third.returncode == 0


def test_a_used_port_is_a_one_line_error(serving: Serving) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        process = serving.start("--port", str(port))
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert f"127.0.0.1:{port}" in output
    assert "--port 0" in output


def test_an_unwritable_folder_is_a_one_line_error(serving: Serving) -> None:
    serving.data.write_text("a file where a folder should be")

    process = serving.start("--port", str(find_free_port()))
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert "cannot write to" in output
    assert "--data" in output


def test_the_first_key_survives_a_start_that_fails(serving: Serving, tmp_path: Path) -> None:
    # The fault: an API that cannot be imported, after the database has its first key.
    broken = tmp_path / "uvicorn"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('no uvicorn today')")

    failed = serving.start("--port", "0", PYTHONPATH=str(tmp_path))
    output, _ = failed.communicate(timeout=60)
    assert failed.returncode == 1
    assert "the API did not start: no uvicorn today" in output

    serving.read_until_ready(serving.start("--port", "0"))

    assert serving.get("/v1/me")["scopes"] == ["*"]
