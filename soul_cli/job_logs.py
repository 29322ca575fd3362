"""A job's log, read page by page or followed until the job finishes, and its lines as text."""

import json
from collections.abc import Iterator
from typing import Any

from soul_cli.errors import BadAnswer
from soul_cli.events import get_job
from soul_cli.resources import LogLine
from soul_cli.transport import Transport

PAGE_LINES = 1000
POLL_SECONDS = 1.0


def read_log(
    transport: Transport, job_id: str, *, attempt: int | None = None, after: int = 0, tail: int | None = None
) -> Iterator[LogLine]:
    """Yield the lines with a `seq` above `after`, or the last `tail` of them."""
    params = {name: value for name, value in (("attempt", attempt), ("tail", tail)) if value is not None}
    while True:
        page = _read_page(transport, job_id, {**params, "after": after, "limit": PAGE_LINES})
        yield from page
        if tail is not None or len(page) < PAGE_LINES:
            return
        after = page[-1].seq


def follow_log(
    transport: Transport, job_id: str, *, attempt: int | None = None, tail: int | None = None
) -> Iterator[LogLine]:
    """Yield the lines, and new ones as they are written, until the job has finished."""
    after = 0
    while True:
        job = get_job(transport, job_id)  # before its lines: those of a finished job are complete
        for line in read_log(transport, job_id, attempt=attempt, after=after, tail=tail):
            after = line.seq
            yield line
        if job.is_terminal:
            return
        tail = None if after else tail
        transport.sleep(POLL_SECONDS)


def format_log_line(line: LogLine) -> str:
    """Return a line as text; stack frames of an exception follow it, indented."""
    fields = dict(line.model_extra or {})
    exceptions = fields.pop("exceptions", None)
    values = "".join(f" {name}={_format_value(value)}" for name, value in fields.items() if value not in (None, [], {}))
    frames = "".join(f"\n    {text}" for text in _list_frames(exceptions))
    return f"{line.at:%H:%M:%S} {line.level:<8} {line.source}: {line.message}{values}{frames}"


def _list_frames(exceptions: Any) -> Iterator[str]:
    if isinstance(exceptions, list):
        for number, exception in enumerate(exceptions):
            yield f"{'caused by ' if number else ''}{exception.get('type')}"
            yield from (f"  {frame}" for frame in exception.get("frames", ()))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_page(transport: Transport, job_id: str, params: dict[str, int]) -> list[LogLine]:
    text = transport.request("GET", f"/v1/jobs/{job_id}/logs", params=params).text
    try:
        return [LogLine.model_validate_json(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise BadAnswer(f"{transport.url} did not answer with a job's log", code="bad_answer") from error
