"""Traces of OpenTelemetry: one trace for a request and the job that it submitted, through all processes.

Off, and without any import, unless OTEL_EXPORTER_OTLP_ENDPOINT (or the variable for traces alone) is set. A request's
trace id is the 128 bits of its ULID. A job keeps the id of its request, so every process finds the trace again after
any crash, without a column or a message for it. A caller's own trace is linked, not continued, because it crosses a
trust boundary (https://www.w3.org/TR/trace-context/, "restarting a trace").
"""

import atexit
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import structlog

log = structlog.stdlib.get_logger("soul_core")

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
#: Carries the parent span to a child process (OpenTelemetry's name for it).
PARENT_VARIABLE = "TRACEPARENT"
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32, in which ULIDs are written
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_STOP_SECONDS = 2

_provider: Any = None
#: Trace and span id of the request's span that is made next.
_request_ids: ContextVar[tuple[int, int] | None] = ContextVar("request_ids", default=None)


def is_enabled() -> bool:
    """Return whether the environment names an endpoint."""
    return any(os.environ.get(name) for name in ENDPOINT_VARIABLES) and (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    )


def start_tracing(service: str) -> None:
    """Send spans of this process from now on, if the environment names an endpoint. Call it after a fork."""
    global _provider  # noqa: PLW0603 (one provider per process, as OpenTelemetry's own)
    if not is_enabled() or _provider is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as error:
        log.warning("traces are not sent: pip install 'soul-unlearning[telemetry]'", missing=error.name)
        return

    class RequestIds(RandomIdGenerator):
        """Random ids, except for the span of a request."""

        def generate_trace_id(self) -> int:
            ids = _request_ids.get()
            return super().generate_trace_id() if ids is None else ids[0]

        def generate_span_id(self) -> int:
            ids = _request_ids.get()
            return super().generate_span_id() if ids is None else ids[1]

    name = os.environ.get("OTEL_SERVICE_NAME", service)
    _provider = TracerProvider(resource=Resource.create({"service.name": name}), id_generator=RequestIds())
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    atexit.register(stop_tracing)


def stop_tracing() -> None:
    """Send the spans that wait, and stop. An endpoint that does not answer delays the process for a short time only."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        _run_briefly(provider.shutdown)


def flush_tracing() -> None:
    """Send the spans that wait: a process that may be killed calls it when a piece of work is done."""
    if _provider is not None:
        _run_briefly(_provider.force_flush)


def _run_briefly(send: Callable[[], object]) -> None:
    """Run in a thread, because OpenTelemetry's own timeouts are not observed while it sends."""
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(_STOP_SECONDS)


def make_trace_parent(request_id: str | None) -> str | None:
    """Return the W3C `traceparent` of a request's span, from its id `req_<ULID>`. None if it has no such form."""
    ids = _derive_ids(request_id)
    return None if ids is None else f"00-{ids[0]:032x}-{ids[1]:016x}-01"


def get_trace_parent() -> str | None:
    """Return the `traceparent` of the current span, for a child process. None without one."""
    if _provider is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    flags = int(context.trace_flags)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}" if context.is_valid else None


@contextmanager
def span(
    name: str, *, parent: str | None = None, attributes: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[None]:
    """Record the block as a span: of the current one, or of the `traceparent` that `parent` gives."""
    if _provider is None:
        yield
        return
    with _provider.get_tracer("soul").start_as_current_span(
        name, context=_make_context(parent), attributes=dict(attributes)
    ):
        yield


def record_span(name: str, *, parent: str | None, started_ns: int, attributes: Mapping[str, Any]) -> None:
    """Record what began at a time and ends now as a span of `parent`."""
    if _provider is not None:
        context = _make_context(parent)
        _provider.get_tracer("soul").start_span(
            name, context=context, start_time=started_ns, attributes=dict(attributes)
        ).end()


def record_request(
    name: str,
    request_id: str,
    *,
    remote_parent: str | None,
    started_ns: int,
    attributes: Mapping[str, Any],
    is_error: bool,
) -> None:
    """Record the span of a finished request, the root of its trace."""
    ids = _derive_ids(request_id)
    if _provider is None or ids is None:
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    remote = _parse_parent(remote_parent)
    token = _request_ids.set(ids)
    try:
        request = _provider.get_tracer("soul").start_span(
            name,
            context=Context(),
            kind=SpanKind.SERVER,
            links=[Link(remote)] if remote is not None else [],
            start_time=started_ns,
            attributes=dict(attributes),
        )
    finally:
        _request_ids.reset(token)
    if is_error:
        request.set_status(Status(StatusCode.ERROR))
    request.end()


def _derive_ids(request_id: str | None) -> tuple[int, int] | None:
    """Return the trace id and the span id of a request: the bits of its ULID, and a digest of them."""
    ulid = (request_id or "").rpartition("_")[2].upper()
    if len(ulid) != 26 or set(ulid) - set(_ALPHABET):
        return None
    number = 0
    for character in ulid:
        number = number << 5 | _ALPHABET.index(character)
    trace_id = number & (1 << 128) - 1
    span_id = int.from_bytes(hashlib.sha256(ulid.encode()).digest()[:8])
    return (trace_id, span_id) if trace_id and span_id else None


def _make_context(parent: str | None) -> Any:
    remote = _parse_parent(parent)
    if remote is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(remote), Context())


def _parse_parent(parent: str | None) -> Any:
    """Return the span context of a `traceparent`; None if it is absent or malformed."""
    match = _TRACE_PARENT.fullmatch(parent or "")
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
