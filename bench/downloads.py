"""Local downloads of one large file: the API over loopback next to nginx (or a bare sendfile server) in the same run.

    python -m bench.downloads --mb 512 --json

Both servers send the same file from the page cache, in turn, to a client that discards the bytes in the kernel
(MSG_TRUNC), so that the figure is the server's. The database and the broker are embedded ones, removed at the end.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from soul_cli.embedded.account import Account
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.embedded.valkey import Valkey

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; {user}
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def main() -> int:
    """Measure and print. The last line is a JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--mb", type=int, default=64, help="size of the file in MiB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="soul-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        content = folder / "content"
        with content.open("wb") as file:
            for _ in range(options.mb):
                file.write(os.urandom(1 << 20))
        path, key = _start_database(stack, folder, content)
        api = stack.enter_context(_serving_api())
        name, other = _start_other(stack, folder, content)
        targets = {"api": (api, path, {"Authorization": f"Bearer {key}"}), name: (other, "/content", {})}
        speeds: dict[str, list[float]] = {target: [] for target in targets}
        for number in range(options.rounds + 1):
            for target, (port, where, headers) in targets.items():
                speed = _download(port, where, headers, options.mb << 20)
                if number:  # the first warms up
                    speeds[target].append(speed)
    medians = {target: statistics.median(values) for target, values in speeds.items()}
    ratio = medians["api"] / medians[name]
    for target, value in medians.items():
        slowest, fastest = min(speeds[target]) / 1e6, max(speeds[target]) / 1e6
        print(f"{target}: {value / 1e6:.0f} MB/s (from {slowest:.0f} to {fastest:.0f})")
    print(f"ratio: {ratio:.2f}")
    if options.json:
        figures = {f"{target}_mb_per_s": round(value / 1e6) for target, value in medians.items()}
        print(
            json.dumps(
                {"mb": options.mb, "rounds": options.rounds, "compared_with": name, **figures, "ratio": round(ratio, 3)}
            )
        )
    return 0


def _start_database(stack: ExitStack, folder: Path, content: Path) -> tuple[str, str]:
    """Start the servers and make a finished job with the file. Return the file's path in the API, and a key."""
    account = Account.choose()
    runtime = make_runtime_folder(folder, account)
    postgres = Postgres(folder, runtime=runtime, log=folder / "postgres.log", account=account, durable=False)
    valkey = Valkey(folder, runtime=runtime, log=folder / "valkey.log", account=account)
    for server in (postgres, valkey):
        server.start()
        stack.callback(server.stop)
    os.environ |= {
        "SOUL_DATABASE_URL": postgres.make_url(),
        "SOUL_REDIS_URL": valkey.url,
        "SOUL_BLOBS_URL": (folder / "blobs").as_uri(),
        "SOUL_SCRATCH_DIR": str(folder / "scratch"),
        "SOUL_LOG_LEVEL": "error",
    }
    return _insert_artifact(content)


def _insert_artifact(content: Path) -> tuple[str, str]:
    from sqlalchemy import select

    from api.services.keys import ensure_admin_key
    from migrations.run import upgrade
    from soul_store import job_leases, jobs, models
    from soul_store.blobs import get_blob_store
    from soul_store.database import transaction
    from soul_store.tables import ApiKey, Artifact

    upgrade(os.environ["SOUL_DATABASE_URL"])
    with transaction() as session:
        key = ensure_admin_key(session)
        row = session.scalars(select(ApiKey)).one()
        model = models.insert(session, tenant_id=row.tenant_id, actor=row.id, name="m", source="local", location="/m")
        job = jobs.insert(
            session,
            tenant_id=row.tenant_id,
            created_by=row.id,
            name="j",
            model_id=model.id,
            datasets={},
            spec={},
            spec_sha256="0",
        )
        session.flush()
        claimed = job_leases.claim(session, job.id, worker="bench", lease_seconds=60)
        assert claimed is not None
        stored = get_blob_store().put_file(f"jobs/{job.id}/1/report.json", content)
        made = job_leases.NewArtifact("report.json", stored.key, stored.size_bytes, stored.sha256)
        lease = job_leases.JobLease(job.id, claimed.epoch)
        job_leases.succeed(session, lease, verdict="passed", report_blob=stored.key, artifacts=[made], usage={})
        session.flush()
        artifact_id = session.scalars(select(Artifact.id)).one()
    assert key is not None
    return f"/v1/artifacts/{artifact_id}/content", key


@contextmanager
def _serving_api() -> Iterator[int]:
    """Start the API as `soul serve` does."""
    port = _choose_port()
    command = [sys.executable, "-m", "uvicorn", "api.main:create_app", "--factory", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "error", "--no-access-log"])
    try:
        _wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _start_other(stack: ExitStack, folder: Path, content: Path) -> tuple[str, int]:
    """Start nginx if it is installed, else a bare sendfile server."""
    port = _choose_port()
    if nginx := shutil.which("nginx"):
        config = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(_NGINX.format(folder=folder, root=folder, port=port, user=user))
        process = subprocess.Popen([nginx, "-c", str(config)], stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        _wait_for_port(port)
        return "nginx", port
    listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
    threading.Thread(target=_serve_bare, args=(listener, content), daemon=True).start()
    return "bare_sendfile", port


def _serve_bare(listener: socket.socket, content: Path) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, content.open("rb") as file:
            connection.recv(65536)
            size = content.stat().st_size
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
            connection.sendfile(file)


def _download(port: int, path: str, headers: dict[str, str], size: int) -> float:
    """Return the bytes per second of one download on a connection of its own."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        received = len(head.split(b"\r\n\r\n", 1)[1])
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(head.decode(errors="replace"))
        buffer = bytearray(1 << 22)
        while count := connection.recv_into(buffer, 0, socket.MSG_TRUNC):
            received += count
    if received != size:
        raise RuntimeError(f"received {received} of {size} bytes")
    return size / (time.monotonic() - started)


def _choose_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
