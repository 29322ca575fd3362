"""A small real HTTP server whose answers a test scripts, to inject faults: cut connections, busy or wrong answers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Request(BaseHTTPRequestHandler):
    """One request. Handlers in tests call `answer`, `begin` and `cut`."""

    protocol_version = "HTTP/1.1"
    body: bytes
    server: "_Server"

    def _handle(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b""
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.script.seen.append((self.command, self.path, dict(self.headers)))
        self.server.script.handler(self)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.begin(status, **{"Content-Length": str(len(body))}, **headers)
        self.wfile.write(body)

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def cut(self) -> None:
        """Close the connection at once."""
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def log_message(self, *_args: object) -> None:  # type: ignore[override]
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    script: "Script"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that a test cuts


@dataclass
class Script:
    """What the server does (`handler`), and the requests it has received: (method, path, headers)."""

    handler: Callable[[Request], None]
    url: str = ""
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        return len(self.seen)


@contextmanager
def serving(handler: Callable[[Request], None]) -> Iterator[Script]:
    server = _Server(("127.0.0.1", 0), Request)
    server.script = Script(handler, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
