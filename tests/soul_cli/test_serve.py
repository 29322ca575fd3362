"""`soul serve`: starts everything, tells where it is, ends everything, keeps the data."""

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

from soul_cli.embedded.postgres import find_free_port


def processes_below(folder: Path) -> list[str]:
    """Return the command lines of living processes that have `folder` in their command line or environment."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            texts = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
        except OSError:
            continue
        if any(str(folder).encode() in text for text in texts) and texts[0]:
            found.append(texts[0].replace(b"\0", b" ").decode())
    return found


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
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SOUL_")}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**kept, **environment}
        )
        self.started.append(process)
        return process

    def said_until_ready(self, process: subprocess.Popen[str]) -> str:
        """Return what it printed up to its last line of the start."""
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                return said
        pytest.fail(f"it ended with code {process.wait()}: {said}")

    def connection(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data / "connection.json").read_text())
        return found

    def get(self, path: str) -> dict[str, object]:
        where = self.connection()
        request = urllib.request.Request(where["url"] + path, headers={"Authorization": f"Bearer {where['api_key']}"})
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
    assert wait_until(lambda: processes_below(folder) == [], seconds=10), processes_below(folder)
    rmtree(folder)


def test_it_serves_keeps_its_data_and_leaves_no_process(serving: Serving) -> None:
    first = serving.start("--port", "0")
    said = serving.said_until_ready(first)
    key = serving.connection()["api_key"]
    assert key in said
    assert serving.connection()["url"] in said
    assert str(serving.data) in said
    assert (serving.data / "connection.json").stat().st_mode & 0o777 == 0o600
    me = serving.get("/v1/me")

    began = time.monotonic()
    first.send_signal(signal.SIGINT)
    assert first.wait(15) == 0
    assert time.monotonic() - began < 10
    assert processes_below(serving.data) == []

    second = serving.start("--port", "0")
    said = serving.said_until_ready(second)
    assert key not in said, "the key is shown once"
    assert serving.get("/v1/me") == me, "the same project and key"

    # however it dies, nothing stays
    second.kill()
    second.wait()
    assert wait_until(lambda: processes_below(serving.data) == []), processes_below(serving.data)

    third = serving.start("--port", "0")
    serving.said_until_ready(third)
    assert serving.get("/v1/me") == me

    # a second one on the same folder is refused
    other = serving.start("--port", "0")
    output, _ = other.communicate(timeout=30)
    assert other.returncode == 1
    assert output.startswith("soul serve: another soul serve runs on")
    assert len(output.splitlines()) == 1

    # a server that dies alone is started again, with its rows
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


def test_a_taken_port_is_one_clear_line(serving: Serving) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        process = serving.start("--port", str(port))
        output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert f"127.0.0.1:{port}" in output
    assert "--port 0" in output


def test_an_unwritable_folder_is_one_clear_line(serving: Serving) -> None:
    serving.data.write_text("a file where a folder should be")

    process = serving.start("--port", str(find_free_port()))
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert "cannot write to" in output
    assert "--data" in output


def test_the_first_key_survives_a_start_that_fails(serving: Serving, tmp_path: Path) -> None:
    # the fault: an API that cannot be imported, after the database has its first key
    broken = tmp_path / "uvicorn"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise SystemExit('no uvicorn today')")

    failed = serving.start("--port", "0", PYTHONPATH=str(tmp_path))
    output, _ = failed.communicate(timeout=60)
    assert failed.returncode == 1
    assert "the API did not start: no uvicorn today" in output

    serving.said_until_ready(serving.start("--port", "0"))

    assert serving.get("/v1/me")["scopes"] == ["*"]
