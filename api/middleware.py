"""A request id for every request, one log line each, and a cap on bodies that are no uploads."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ServiceError, problem_response
from api.store.ids import new_id

log = logging.getLogger("api.access")

#: A spec with ten thousand refusals fits; uploads have their own limit.
MAX_JSON_BYTES = 4 << 20


class RequestContext:
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
        try:
            if _too_long(request):
                detail = f"the body may have at most {MAX_JSON_BYTES} bytes"
                await problem_response(request, ServiceError(413, "too_large", detail))(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        finally:
            took = (time.monotonic() - started) * 1000
            log.info("%s %s %s %.0f ms %s", request.method, request.url.path, status, took, request_id)


def _too_long(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    is_upload = request.url.path.startswith("/v1/datasets")
    return not is_upload and length.isdigit() and int(length) > MAX_JSON_BYTES


def _add_header(message: MutableMapping[str, Any], name: bytes, value: bytes) -> None:
    headers = [pair for pair in message.get("headers", []) if pair[0].lower() != name]
    message["headers"] = [*headers, (name, value)]
