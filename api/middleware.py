"""Gives every request an id and a log line, and limits the size of every body."""

import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.error_handlers import format_body_limit, make_problem_response
from api.errors import ErrorCode, ServiceError
from soul_store.ids import new_id
from soul_store.settings import get_settings

log = structlog.stdlib.get_logger("api.access")

#: A spec with ten thousand refusals fits; uploads have their own limit.
MAX_JSON_BYTES = 4 << 20
#: What a form adds to its file: boundaries, headers, the other fields.
_FORM_BYTES = 1 << 20


class RequestContextMiddleware:
    """The outermost middleware of the service."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started_at = new_id("req"), time.monotonic()
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_header(message, b"x-request-id", request_id.encode())
            await send(message)

        request = Request(scope)
        max_bytes = _get_max_body_bytes(request)
        try:
            with bound_contextvars(request_id=request_id):
                if _get_announced_bytes(request) > max_bytes:
                    # Starlette's limit would answer in plain text; it measures bodies without an announced length
                    response = make_problem_response(
                        request, ServiceError(ErrorCode.TOO_LARGE, format_body_limit(max_bytes))
                    )
                    await response(scope, receive, send_with_id)
                else:
                    await RequestBodyLimitMiddleware(self.app, max_bytes)(scope, receive, send_with_id)
        finally:
            log.info(
                "request served",
                method=request.method,
                path=quote(request.url.path),
                status=status,
                milliseconds=round((time.monotonic() - started_at) * 1000),
                request_id=request_id,
            )


def _get_max_body_bytes(request: Request) -> int:
    """Return the limit on this request's body."""
    if request.url.path.startswith("/v1/datasets"):
        content_type = request.headers.get("content-type", "").lower()
        if content_type.startswith("multipart/form-data"):
            return get_settings().max_upload_bytes + _FORM_BYTES
        if request.method == "PUT":
            return get_settings().max_upload_bytes
    return MAX_JSON_BYTES


def _get_announced_bytes(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _add_header(message: MutableMapping[str, Any], name: bytes, value: bytes) -> None:
    headers = [pair for pair in message.get("headers", []) if pair[0].lower() != name]
    message["headers"] = [*headers, (name, value)]
