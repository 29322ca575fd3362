"""A small HTTP/1.1 client for many connections at once: it costs less than the servers that it measures."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

_CONNECT_SECONDS = 60.0


@dataclass
class Sample:
    """The responses of a phase: how many of each status, and seconds each."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """Responses that are not 2xx; 0 stands for a broken connection."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

    def compute_percentile(self, percent: float) -> float:
        """Return a percentile of the milliseconds."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Connection:
    """A connection that is kept open between requests."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self._port = port
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body."""
        await self.send(path)
        assert self._reader is not None
        head = await self._reader.readuntil(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[9:12]), body

    async def send(self, path: str) -> asyncio.StreamReader:
        """Send a request; return what its response is read from."""
        if self._writer is None:
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{self._authorization}\r\n".encode())
        await self._writer.drain()
        assert self._reader is not None
        return self._reader

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def send_requests(port: int, key: str | None, path: str, *, num_clients: int, num_requests: int) -> Sample:
    """Send requests from a number of clients at once, each on a connection of its own, one after the other."""
    sample, num_left = Sample(), num_requests

    async def run_client() -> None:
        nonlocal num_left
        connection = Connection(port, key)
        while num_left > 0:
            num_left -= 1
            started = time.perf_counter()
            try:
                status, _ = await connection.get(path)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                connection.close()
                status = 0
            sample.statuses[status] += 1
            sample.seconds.append(time.perf_counter() - started)
        connection.close()

    await asyncio.gather(*(run_client() for _ in range(num_clients)))
    return sample


async def probe(port: int, path: str, sample: Sample, *, seconds: float = 0.05) -> None:
    """Ask at an interval until cancelled, each time on a new connection as a load balancer does."""
    while True:
        connection = Connection(port)
        started = time.perf_counter()
        try:
            status, _ = await connection.get(path)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        sample.statuses[status] += 1
        sample.seconds.append(time.perf_counter() - started)
        connection.close()
        await asyncio.sleep(seconds)
