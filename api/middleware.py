"""A request id for every request, one log line each, and a limit on every body, announced or not."""

import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.errors import ServiceError, make_problem_response
from soul_store.ids import new_id
from soul_store.settings import get_settings

log = structlog.stdlib.get_logger("api.access")

#: A spec with ten thousand refusals fits; uploads have their own limit.
MAX_JSON_BYTES = 4 << 20
#: What a form adds to the file in it: boundaries, headers, the other fields.
_FORM_BYTES = 1 << 20


class RequestContextMiddleware:
    """The outermost layer of our own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started = new_id("req"), time.monotonic()
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_header(message, b"x-request-id", request_id.encode())
            await send(message)

        request = Request(scope)
        most = _most_bytes(request)
        try:
            with bound_contextvars(request_id=request_id):
                if _announced_bytes(request) > most:
                    await make_problem_response(request, ServiceError(413, "too_large", _too_large(most)))(
                        scope, receive, send_with_id
                    )
                else:
                    await self.app(scope, _limited(receive, most), send_with_id)
        finally:
            log.info(
                "request served",
                method=request.method,
                path=quote(request.url.path),
                status=status,
                milliseconds=round((time.monotonic() - started) * 1000),
                request_id=request_id,
            )


def _most_bytes(request: Request) -> int:
    """Return how long this request's body may be."""
    if request.url.path.startswith("/v1/datasets"):
        is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        if is_form:
            return get_settings().max_upload_bytes + _FORM_BYTES
        if request.method == "PUT":
            return get_settings().max_upload_bytes
    return MAX_JSON_BYTES


def _announced_bytes(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _limited(receive: Receive, most: int) -> Receive:
    """Count what arrives: a chunked body does not announce its length."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, _too_large(most))  # the one kind that body parsers let through
        return message

    return counted


def _too_large(most: int) -> str:
    return f"the body may have at most {most} bytes"


def _add_header(message: MutableMapping[str, Any], name: bytes, value: bytes) -> None:
    headers = [pair for pair in message.get("headers", []) if pair[0].lower() != name]
    message["headers"] = [*headers, (name, value)]
