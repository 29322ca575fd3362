"""Refuses JSON bodies that are expensive or impossible to handle, before anything parses or validates them."""

import re
from itertools import accumulate

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_handlers import handle_http_error, make_problem_response
from api.errors import ErrorCode, ServiceError

#: A spec nests less than ten levels; the largest has some ten thousand texts.
MAX_DEPTH, MAX_ITEMS = 64, 100_000
#: Larger bodies are scanned in a thread.
_SHORT_BYTES = 1 << 16
#: A string, or the rest of the body if it does not end. Possessive: backtracking would be quadratic.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class JsonGuardMiddleware:
    """Reads JSON bodies and answers those with a problem; the others pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive) if scope["type"] == "http" else None
        if request is None or not _has_json_body(request):
            await self.app(scope, receive, send)
            return
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        except HTTPException as error:  # a body without a length that became too large
            await handle_http_error(request, error)(scope, receive, send)
            return
        problem = find_problem(body) if len(body) < _SHORT_BYTES else await run_in_threadpool(find_problem, body)
        if problem is not None:
            await make_problem_response(request, problem)(scope, receive, send)
            return
        is_sent = False

        async def replay() -> Message:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


def find_problem(body: bytes) -> ServiceError | None:
    """Return why a JSON body is refused: nested too deep, too many items, or half a character."""
    try:
        body.decode("utf-8")  # `json.loads` would read halves of surrogate pairs, and UTF-16
    except UnicodeDecodeError:
        return ServiceError(ErrorCode.BAD_JSON, "the body is not UTF-8; send it in UTF-8")
    structure = _STRING.sub(b"", body)
    depth = max(accumulate((byte in b"[{") - (byte in b"]}") for byte in structure), default=0)
    if depth > MAX_DEPTH:
        return ServiceError(ErrorCode.BAD_JSON, f"the body nests deeper than {MAX_DEPTH} levels; send a flatter one")
    if structure.count(b",") > MAX_ITEMS:
        return ServiceError(ErrorCode.TOO_LARGE, f"the body has more than {MAX_ITEMS} items; send fewer")
    if b"\\u" in body and _has_half_pair(body):
        detail = "a text of the body has half of a surrogate pair, which is not a character; remove it"
        return ServiceError(ErrorCode.BAD_JSON, detail)
    return None


def _has_half_pair(body: bytes) -> bool:
    """Return whether an escaped high surrogate is not followed by a low one, or the other way round."""
    expected_at = None
    for match in _ESCAPE.finditer(body):
        unit = int(match[1], 16) if match[1] else 0
        is_low = 0xDC00 <= unit < 0xE000
        if is_low != (match.start() == expected_at) or (expected_at is not None and not is_low):
            return True
        expected_at = match.end() if 0xD800 <= unit < 0xDC00 else None
    return expected_at is not None


def _has_json_body(request: Request) -> bool:
    if request.method not in {"POST", "PATCH", "PUT"}:
        return False
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    is_upload = request.method == "PUT" and request.url.path.startswith("/v1/datasets/")
    return not is_upload and (media_type.endswith(("/json", "+json")) or not media_type)
