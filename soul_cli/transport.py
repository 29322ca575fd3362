"""Requests that survive a bad network: retries with backoff where repeating is safe, problem+json as SoulError."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from soul_cli.errors import ServerUnreachable, SoulError, parse_problem

#: Methods that may be repeated without doing anything twice (RFC 9110, section 9.2.2).
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
BUSY_STATUS_CODES = frozenset({429, 503})
MAX_PAUSE_SECONDS = 60.0


class Transport:
    """One connection pool to one server, with its credential."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        max_tries: int = 5,
        timeout_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.max_tries = max_tries
        self.sleep = sleep
        headers = {"User-Agent": "soul-cli"} | ({"Authorization": f"Bearer {key}"} if key else {})
        timeout = httpx.Timeout(timeout_seconds, connect=10.0)
        # A redirect of ours leads to object storage, which must not see the API key: httpx drops it across hosts.
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, follow_redirects=True)

    def close(self) -> None:
        self.http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        content: Callable[[], Any] | None = None,
        accept_status: frozenset[int] = frozenset(),
        **options: Any,
    ) -> httpx.Response:
        """Send one request and return its whole answer; raise SoulError on 400 and above.

        `content` makes the body anew for each try, so that a streamed upload can be repeated.
        """

        def once() -> httpx.Response:
            body = {} if content is None else {"content": content()}
            return self.http.request(method, path, **body, **options)

        repeatable = method in IDEMPOTENT_METHODS or "Idempotency-Key" in (options.get("headers") or {})
        response = self._with_retries(once, repeatable=repeatable)
        if response.status_code >= 400 and response.status_code not in accept_status:
            raise parse_problem(response)
        return response

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Open a streamed answer. A cut inside it raises httpx.TransportError: the caller knows where it stood."""
        request = self.http.build_request(method, path, **options)
        response = self._with_retries(lambda: self.http.send(request, stream=True), repeatable=True)
        try:
            if response.status_code >= 400:
                response.read()
                raise parse_problem(response)
            yield response
        finally:
            response.close()

    def pause(self, attempt: int, response: httpx.Response | None = None) -> None:
        """Wait before the next try: as long as the server asks, else exponentially with jitter."""
        asked = _retry_after(response) if response is not None else None
        # Jitter, so that many clients do not come back in the same instant; it is no secret.
        grown = min(0.2 * 2**attempt, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311
        self.sleep(min(asked if asked is not None else grown, MAX_PAUSE_SECONDS))

    def _with_retries(self, once: Callable[[], httpx.Response], *, repeatable: bool) -> httpx.Response:
        for attempt in range(self.max_tries):
            last = attempt == self.max_tries - 1
            try:
                response = once()
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nothing was sent: repeating is safe whatever the method.
                if last:
                    raise self._unreachable(error) from error
                self.pause(attempt)
            except httpx.TransportError as error:
                if last or not repeatable:
                    raise self._unreachable(error) from error
                self.pause(attempt)
            except httpx.InvalidURL as error:
                raise SoulError(f"{self.url!r} is not a URL: {error}") from error
            else:
                if response.status_code not in BUSY_STATUS_CODES or last or not repeatable:
                    return response
                response.close()
                self.pause(attempt, response)
        raise AssertionError("tries must be at least 1")

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        what = str(error) or type(error).__name__
        return ServerUnreachable(f"cannot reach {self.url}: {what}", code="unreachable")


def _retry_after(response: httpx.Response) -> float | None:
    """Read Retry-After in its form of seconds; the form of a date is left to the backoff."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
