"""Log records as the engine sends them to its supervisor, and exceptions described without the texts they may quote."""

import sys
import traceback
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LogLevel = Literal["debug", "info", "warning", "error", "critical"]

#: Frames of an exception that are described: the outermost and the innermost ones.
_MAX_OUTER_FRAMES, _MAX_INNER_FRAMES = 10, 40
_MAX_CAUSES = 5


class LogRecord(BaseModel):
    """One record of a log.

    The message of a record from a library may quote a row of the user's data; ours never does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["log_record"] = "log_record"
    at: datetime
    level: LogLevel
    logger: str
    message: str
    is_from_library: bool = False
    fields: dict[str, Any] = Field(default_factory=dict)


def describe_exception(error: BaseException) -> list[dict[str, Any]]:
    """Return type and stack frames of an exception and of its causes, the exception itself first.

    Messages and source lines are left out: a message may quote a row of the user's data.
    """
    descriptions: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(descriptions) < _MAX_CAUSES:
        descriptions.append({"type": _name_type(type(current)), "frames": _list_frames(current)})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return descriptions


def _name_type(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _list_frames(error: BaseException) -> list[str]:
    frames = [_format_frame(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    num_left_out = len(frames) - _MAX_OUTER_FRAMES - _MAX_INNER_FRAMES
    if num_left_out <= 0:
        return frames
    return [*frames[:_MAX_OUTER_FRAMES], f"({num_left_out} frames left out)", *frames[-_MAX_INNER_FRAMES:]]


def _format_frame(frame: FrameType, line: int) -> str:
    return f"{shorten_path(frame.f_code.co_filename)}:{line} in {frame.f_code.co_qualname}"


def shorten_path(path: str) -> str:
    """Return a source file's path relative to the longest import folder that contains it.

    Import folders are the entries of `sys.path` and this project's own: an editable install is on no entry.
    """
    folders = [str(Path(entry).absolute()) + "/" for entry in (*sys.path, str(Path(__file__).parents[1]))]
    prefix = max((folder for folder in folders if path.startswith(folder)), key=len, default="")
    return path.removeprefix(prefix)
