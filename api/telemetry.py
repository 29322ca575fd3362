"""Measures every request: metrics by route template, and a span of the request's trace. No path, no id is a label."""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soul_core import tracing
from soul_store import metrics

#: The label of a request that no route took.
_NO_ROUTE = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STREAM_TYPE = b"text/event-stream"


class TelemetryMiddleware:
    """Counts requests, streams and uploaded bytes, and records a span for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            exchange.finish()


class _Exchange:
    """One request and its response, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started_at, self._started_ns = time.monotonic(), time.time_ns()
        self._num_bytes, self._status, self._is_stream = 0, 0, False
        metrics.HTTP_IN_FLIGHT.inc()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._leave_queue(dict(message.get("headers", ())))
        await self._send(message)

    def finish(self) -> None:
        """Record the exchange, whether it was answered or not."""
        if self._status == 0:
            metrics.HTTP_IN_FLIGHT.dec()
        if self._is_stream:
            metrics.HTTP_STREAMS.dec()
        method = self._scope["method"] if self._scope["method"] in _METHODS else metrics.OTHER
        route, status = _get_route(self._scope), str(self._status or 499)  # 499: the client left before an answer
        if self._num_bytes:
            metrics.UPLOADED_BYTES.labels(route).inc(self._num_bytes)
        if not self._is_stream:
            seconds = time.monotonic() - self._started_at
            metrics.HTTP_REQUESTS.labels(method, route, status).observe(seconds)
        request_id = self._scope.get("state", {}).get("request_id")
        if request_id is not None:
            tracing.record_request(
                f"{method} {route}",
                request_id,
                remote_parent=_get_header(self._scope, b"traceparent"),
                started_ns=self._started_ns,
                attributes={
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": int(status),
                    "soul.request_id": request_id,
                },
                is_error=self._status >= 500,
            )

    def _leave_queue(self, headers: dict[bytes, bytes]) -> None:
        metrics.HTTP_IN_FLIGHT.dec()
        if headers.get(b"content-type", b"").startswith(_STREAM_TYPE):
            self._is_stream = True
            metrics.HTTP_STREAMS.inc()


def _get_route(scope: Scope) -> str:
    """Return the template of the route that took the request, such as `/v1/jobs/{job_id}`."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", _NO_ROUTE))


def _get_header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
