"""Logging of every process of the service and of the engine: levels, formats and ids on each record (structlog).

`bound_contextvars(job_id=..., attempt=..., request_id=...)` adds ids to all records of a block, also to those that
libraries write through `logging`.
"""

import faulthandler
import logging
import sys
import threading
import warnings
from datetime import datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor

from soul_core.log_records import LogRecord, describe_exception, shorten_path

LogFormat = Literal["console", "json"]

#: Packages whose own messages never quote a row of the user's data.
_OWN_PACKAGES = frozenset({"soul_core", "soul_store", "worker", "api"})

_SHARED_PROCESSORS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(allow=("job_id", "attempt", "request_id")),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
]


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the time of the record."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logging(*, level: str, output_format: LogFormat) -> None:
    """Send all records of this process to stderr: as aligned text, or as one JSON object per line."""
    _install_handler(_StderrHandler(), _choose_renderer(output_format), level)


def configure_engine_logging(stream: TextIO, *, level: str) -> None:
    """Send the records of an engine to its supervisor, as one `LogRecord` per line of `stream`.

    Records of libraries below a warning are sent only at level debug.
    Exceptions are described without their messages. Warnings, uncaught exceptions of threads and crashes of the
    interpreter become records as well; what a C library writes to stderr stays there.
    """
    _install_handler(logging.StreamHandler(stream), [_render_record], "debug" if level == "debug" else "warning")
    logging.getLogger("soul_core").setLevel(level.upper())
    logging.raiseExceptions = False  # it would print the arguments of a malformed record
    warnings.showwarning = _log_warning
    sys.excepthook = lambda _, error, __: _log_uncaught(error)
    threading.excepthook = lambda args: _log_uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_value)
    faulthandler.enable(stream)


def redirect_library_loggers() -> None:
    """Send the records of libraries that print them by handlers of their own to ours. Call it after their import."""
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and not logger.propagate:
            logger.handlers = [h for h in logger.handlers if not isinstance(h, logging.StreamHandler)]
            logger.propagate = True


def _install_handler(handler: logging.Handler, renderers: list[Processor], level: str) -> None:
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED_PROCESSORS, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler.setFormatter(ProcessorFormatter(processors=renderers, foreign_pre_chain=_SHARED_PROCESSORS))
    handler.set_name("soul")
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if other.get_name() != "soul"), handler]
    root.setLevel(level.upper())


def _choose_renderer(output_format: LogFormat) -> list[Processor]:
    drop_meta = ProcessorFormatter.remove_processors_meta
    if output_format == "json":
        to_message = structlog.processors.EventRenamer("message")
        return [drop_meta, to_message, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # the default formatter of exceptions would print local variables, and so rows of the user's data
    plain = structlog.dev.plain_traceback
    colors = sys.stderr.isatty()
    return [
        drop_meta,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, timestamp_key="at", pad_event_to=0),
    ]


def _render_record(_: Any, __: str, event: EventDict) -> str:
    raw: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    if error := _get_exception(event.pop("exc_info", None)):
        event["exceptions"] = describe_exception(error)
    event.pop("stack_info", None)
    record = LogRecord(
        at=datetime.fromisoformat(event.pop("at")),
        level=event.pop("level"),
        logger=event.pop("logger", raw.name),
        message=str(event.pop("event")),
        is_from_library=raw.name.split(".")[0] not in _OWN_PACKAGES,
        fields=event,
    )
    return record.model_dump_json(fallback=repr)


def _get_exception(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exception() if exc_info else None


def _log_uncaught(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        structlog.stdlib.get_logger("soul_core").error("uncaught exception", exc_info=error)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    place = f"{shorten_path(filename)}:{lineno}"
    structlog.stdlib.get_logger("py.warnings").warning(str(message), category=category.__name__, place=place)
