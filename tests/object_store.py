"""One real S3 server (SeaweedFS) per test process, started only by tests that need it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from soul_core.parent_death import die_with_parent

ACCESS_KEY, SECRET_KEY = "soul-test-key", "soul-test-secret"
BUCKET = "soul-test"
_START_SECONDS = 60


@dataclass(frozen=True)
class ObjectServer:
    """A running server with one bucket; it allows requests of one key."""

    endpoint: str
    bucket: str = BUCKET

    @property
    def environment(self) -> dict[str, str]:
        """The credentials, as the service reads them."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def make_url(self, prefix: str, bucket: str | None = None) -> str:
        """Return a value for SOUL_BLOBS_URL."""
        return f"s3://{bucket or self.bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1"


@contextmanager
def running_object_server() -> Iterator[ObjectServer]:
    """Start the server on loopback, in a temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="soul-s3-", ignore_cleanup_errors=True) as folder:
        ports = _choose_ports(8)
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                _make_command(Path(folder), ports),
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder,
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  # a killed test run leaves no server
            )
        try:
            endpoint = f"http://127.0.0.1:{ports[0]}"
            _wait_until_ready(endpoint, process, Path(folder) / "log")
            _make_bucket(endpoint)
            yield ObjectServer(endpoint)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _make_command(folder: Path, ports: list[int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    s3, s3_grpc, master, master_grpc, filer, filer_grpc, volume, volume_grpc = ports
    weed = Path(sys.executable).with_name("weed")
    return [
        *(str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"),
        *(
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.volumeSizeLimitMB=64"),
        *(f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", "-volume.max=100"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-master.telemetry=false"),
    ]


def _choose_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def _wait_until_ready(endpoint: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{endpoint}/healthz", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    msg = f"the object server did not start: {log.read_text(errors='replace')[-2000:]}"
    raise RuntimeError(msg)


def _make_bucket(endpoint: str) -> None:
    """Create the bucket by a presigned request, and wait until the server can store files in it."""
    from datetime import timedelta

    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    url = obstore.sign(store, "PUT", "", timedelta(minutes=5))
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no bucket: {error}") from error
            time.sleep(0.2)
