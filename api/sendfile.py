"""Sends files by the kernel's sendfile: the ASGI extension `http.response.zerocopysend`, which uvicorn lacks.

uvicorn's own way reads every chunk into Python and copies it into the socket again: 0.3 of nginx's speed, measured by
`python -m bench.downloads`. Under another server, another protocol or TLS the response falls back to chunks.
"""

import asyncio
import os
import select
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse
from starlette.types import Message, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_EXTENSION = "http.response.zerocopysend"
#: Calls run in a thread, because the disk may be slow. A client that takes nothing for so long gives the thread back,
#: and so does any client after _MAX_TURN_BYTES.
_STALL_MILLISECONDS, _MAX_TURN_BYTES = 5, 64 << 20


def offer_sendfile(scope: Scope, send: Send) -> Send:
    """Return a `send` that understands the extension, and announce it in the scope, if the server's socket is plain."""
    cycle = getattr(send, "__self__", None)
    if scope["type"] != "http" or not isinstance(cycle, RequestResponseCycle):
        return send
    if cycle.transport.get_extra_info("sslcontext") is not None:
        return send
    scope.setdefault("extensions", {})[_EXTENSION] = {}

    async def send_or_sendfile(message: Message) -> None:
        if message["type"] == _EXTENSION:
            await _sendfile(cycle, message["file"], message["offset"], message["count"])
        else:
            await send(message)

    return send_or_sendfile


class SendfileResponse(FileResponse):
    """A file, complete or a range of it, by sendfile where the server has it."""

    async def _handle_simple(self, send: Send, send_header_only: bool, send_pathsend: bool) -> None:
        if send_header_only or not self.can_sendfile:
            await super()._handle_simple(send, send_header_only, send_pathsend)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._send_bytes(send, 0, int(self.headers["content-length"]))

    async def _handle_single_range(
        self,
        send: Send,
        start: int,
        end: int,
        file_size: int,
        send_header_only: bool,
    ) -> None:
        if send_header_only or not self.can_sendfile:
            await super()._handle_single_range(send, start, end, file_size, send_header_only)
            return
        self.headers["content-range"] = f"bytes {start}-{end - 1}/{file_size}"
        self.headers["content-length"] = str(end - start)
        await send({"type": "http.response.start", "status": 206, "headers": self.raw_headers})
        await self._send_bytes(send, start, end - start)

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        self.can_sendfile = _EXTENSION in scope.get("extensions", {})
        await super().__call__(scope, receive, send)

    async def _send_bytes(self, send: Send, offset: int, count: int) -> None:
        with Path(self.path).open("rb", buffering=0) as file:
            await send({"type": _EXTENSION, "file": file.fileno(), "offset": offset, "count": count})


async def _sendfile(cycle: RequestResponseCycle, file: int, offset: int, count: int) -> None:
    """Send bytes of a file past uvicorn, then let it complete the response."""
    transport, loop = cycle.transport, asyncio.get_running_loop()
    while transport.get_write_buffer_size() and not cycle.disconnected:  # the headers come first
        await asyncio.sleep(0.001)
    if cycle.disconnected:
        return
    # both stay ours until no thread uses them, also if the transport closes or this task is cancelled
    target, source = os.dup(transport.get_extra_info("socket").fileno()), os.dup(file)
    turn: asyncio.Future[int | None] | None = None
    try:
        while count and not cycle.disconnected:
            turn = loop.run_in_executor(None, _send_until_stall, target, source, offset, count)
            sent = await asyncio.shield(turn)
            if sent is None:
                break
            offset, count = offset + sent, count - sent
            if count:
                await _wait_writable(loop, target)
    finally:
        if turn is None or turn.done():
            _close(target, source)
        else:
            turn.add_done_callback(lambda _: _close(target, source))
    if count:
        transport.close()
        return
    cycle.expected_content_length = 0  # uvicorn counts what passes through it
    await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _send_until_stall(target: int, file: int, offset: int, count: int) -> int | None:
    """Return how much was sent; None if the client has gone, or if the file is shorter than its row says."""
    writable = select.poll()
    writable.register(target, select.POLLOUT)
    wanted, sent = min(count, _MAX_TURN_BYTES), 0
    while sent < wanted:
        try:
            num_bytes = os.sendfile(target, file, offset + sent, wanted - sent)
        except BlockingIOError:
            if not writable.poll(_STALL_MILLISECONDS):
                return sent
        except OSError:
            return None
        else:
            if num_bytes == 0:
                return None
            sent += num_bytes
    return sent


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _wait_writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    writable = loop.create_future()
    loop.add_writer(descriptor, _resolve, writable)
    try:
        await writable
    finally:
        loop.remove_writer(descriptor)
