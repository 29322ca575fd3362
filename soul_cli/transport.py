"""HTTP requests with retries where repeating is safe. Errors of httpx2 and problem documents become SoulErrors."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from soul_cli.errors import BadAnswer, BadInput, ServerUnreachable, parse_problem

#: Methods whose effect is the same when they are repeated (RFC 9110, section 9.2.2).
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
REDIRECT_STATUS_CODES = frozenset({301, 302, 303, 307, 308})
BUSY_STATUS_CODES = frozenset({429, 503})
MAX_PAUSE_SECONDS = 60.0
#: Errors after which the server has received nothing.
_NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class Transport:
    """One connection pool to one server, with its API key.

    Raises:
        BadInput: the URL, the key or a proxy setting of the environment cannot be used.
    """

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
        _check_url(self.url)
        if key and not (key.isascii() and key.isprintable()):
            raise BadInput("the API key has a character that an HTTP header cannot hold: copy the key again")
        headers = {"User-Agent": "soul-cli"} | ({"Authorization": f"Bearer {key}"} if key else {})
        timeout = httpx2.Timeout(timeout_seconds, connect=10.0)
        try:
            self.http = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout, follow_redirects=True)
            # The object store that the server redirects to must not see the API key, wherever it runs.
            self._keyless = httpx2.Client(headers={"User-Agent": "soul-cli"}, timeout=timeout, follow_redirects=True)
        except (httpx2.InvalidURL, ValueError, ImportError) as error:
            raise BadInput(
                f"a proxy setting cannot be used: {error} (check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY)"
            ) from error

    def close(self) -> None:
        self.http.close()
        self._keyless.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        content: Callable[[], Any] | None = None,
        accept_status: frozenset[int] = frozenset(),
        **options: Any,
    ) -> httpx2.Response:
        """Send one request and return its complete response.

        Args:
            content: makes the body, once per try, so that a streamed upload can be repeated.
            accept_status: statuses of 400 and above that are returned instead of raised.

        Raises:
            SoulError: the server answered with status 400 or above, cannot be reached, or sent an unreadable answer.
        """

        def send() -> httpx2.Response:
            body = {} if content is None else {"content": content()}
            return self.http.request(method, path, **body, **options)

        is_repeatable = method in IDEMPOTENT_METHODS or "Idempotency-Key" in (options.get("headers") or {})
        response = self._send_with_retries(send, is_repeatable=is_repeatable)
        if response.status_code >= 400 and response.status_code not in accept_status:
            raise parse_problem(response)
        return response

    def request_json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send one request and return the JSON object of its answer; {} for an empty body."""
        response = self.request(method, path, **options)
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BadAnswer(
                f"{self.url}{path} did not answer with a JSON object: is it a SOUL server?", code="bad_answer"
            )
        return answer

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx2.Response]:
        """Open a streamed answer.

        Raises:
            SoulError: as `request`.
            httpx2.TransportError: the connection broke inside the block, which knows where to resume.
        """

        def send() -> httpx2.Response:
            return self.http.send(self.http.build_request(method, path, **options), stream=True)

        with self._open(send) as response:
            yield response

    @contextmanager
    def stream_file(self, path: str, *, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        """Open a file's bytes, which the server sends itself, or redirects to in an object store.

        Raises as `stream`.
        """

        def send() -> httpx2.Response:
            response = self.http.send(
                self.http.build_request("GET", path, headers=headers), stream=True, follow_redirects=False
            )
            if response.status_code not in REDIRECT_STATUS_CODES:
                return response
            response.close()
            # The bucket has other ETags. A file of a job never changes, and its sha256 is checked at the end.
            bucket_headers = {name: value for name, value in headers.items() if name != "If-Range"}
            target = response.url.join(response.headers["location"])
            is_this_server = (target.host, target.path) == (response.url.host, response.url.path)  # now by https
            client = self.http if is_this_server else self._keyless
            return client.send(
                client.build_request("GET", target, headers=headers if is_this_server else bucket_headers), stream=True
            )

        with self._open(send) as response:
            yield response

    @contextmanager
    def _open(self, send: Callable[[], httpx2.Response]) -> Iterator[httpx2.Response]:
        response = self._send_with_retries(send, is_repeatable=True)
        try:
            if response.status_code >= 400:
                response.read()
                raise parse_problem(response)
            yield response
        except httpx2.TransportError:
            raise
        except httpx2.RequestError as error:
            raise self._make_bad_answer(error) from error
        finally:
            response.close()

    def pause(self, attempt: int, response: httpx2.Response | None = None) -> None:
        """Wait before the next try: as long as the server asks, else exponentially with jitter."""
        requested = _read_retry_after(response) if response is not None else None
        # Jitter spreads the retries of many clients; it need not be unpredictable.
        grown = min(0.2 * 2**attempt, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311
        self.sleep(min(requested if requested is not None else grown, MAX_PAUSE_SECONDS))

    def _send_with_retries(self, send: Callable[[], httpx2.Response], *, is_repeatable: bool) -> httpx2.Response:
        for attempt in range(self.max_tries):
            is_last = attempt == self.max_tries - 1
            try:
                response = send()
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
                raise BadInput(f"the request to {self.url} cannot be sent: {error}") from error
            except httpx2.TransportError as error:
                if is_last or not (is_repeatable or isinstance(error, _NOTHING_SENT)):
                    reason = str(error) or type(error).__name__
                    raise ServerUnreachable(f"cannot reach {self.url}: {reason}", code="unreachable") from error
                self.pause(attempt)
            except httpx2.RequestError as error:
                raise self._make_bad_answer(error) from error
            else:
                if response.status_code not in BUSY_STATUS_CODES or is_last or not is_repeatable:
                    return response
                response.close()
                self.pause(attempt, response)
        raise AssertionError("max_tries must be at least 1")

    def _make_bad_answer(self, error: httpx2.RequestError) -> BadAnswer:
        reason = str(error) or type(error).__name__
        return BadAnswer(f"{self.url} sent an answer that cannot be read: {reason}", code="bad_answer")


def _check_url(url: str) -> None:
    """Raise BadInput unless this is an http or https URL with a host."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise BadInput(f"{url!r} is not a valid URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise BadInput(f"the server's URL must be http://HOST or https://HOST, not {url!r}")


def _read_retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds of Retry-After; None without it, or where it is a date."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
