"""Prints results as tables and lines, or as JSON for scripts, and errors on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from soul_cli.errors import SoulError
from soul_cli.resources import Job, Resource
from soul_cli.terminal import escape
from soul_core.formatting import format_duration

console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)

VERDICT_STYLES = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold yellow"}
STATUS_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "yellow",
    "running": "cyan",
    "busy": "cyan",
    "draining": "yellow",
    "lost": "red",
}


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def print_resource(resource: Resource, *, as_json: bool, lines: Iterable[tuple[str, Any]]) -> None:
    """Print a complete resource as JSON, or its main fields as lines."""
    if as_json:
        print_json(resource)
        return
    print_fields(lines)


def print_fields(lines: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, aligned; empty values are left out."""
    shown = [(name, value) for name, value in lines if value not in (None, "", {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console.print(f"[dim]{name:<{width}}[/]  {style_value(value)}", soft_wrap=True)


#: Width of an id (a prefix and a ULID), which is never cut, so that users can copy it.
ID_WIDTH = 30


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table; None is shown as a dash."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name == "id", overflow="fold", min_width=ID_WIDTH if name == "id" else None)
    for row in rows:
        table.add_row(*("-" if cell is None else style_value(cell) for cell in row))
    console.print(table)


def print_error(error: SoulError, *, as_json: bool) -> None:
    """Print an error on stderr: one line, then one line for each problem that the server names."""
    if as_json:
        error_console.file.write(json.dumps(error.as_dict(), indent=2, ensure_ascii=False, default=_plain) + "\n")
        return
    error_console.print(f"[bold red]Error:[/] {escape(error.detail)}", soft_wrap=True)
    for problem in error.errors:
        pointer, detail = problem.get("pointer"), problem.get("detail") or problem
        error_console.print(f"  {escape(f'{pointer}: {detail}' if pointer else str(detail))}", soft_wrap=True)
    if actions := error.extra.get("allowed_actions"):
        error_console.print(f"  possible now: {', '.join(map(str, actions))}")
    if error.request_id and (error.status or 0) >= 500:
        error_console.print(f"  request {error.request_id}", style="dim")


def make_job_fields(job: Job) -> list[tuple[str, Any]]:
    """Return the fields of a job that `soul status` shows."""
    progress = job.progress
    step = f"{progress.step} of {progress.total_steps}" if progress.total_steps else None
    eta_seconds = progress.eta_seconds if job.status == "running" else None
    reason = (job.status_reason or {}).get("message")
    return [
        ("job", job.id),
        ("name", job.name),
        ("kind", job.kind),
        ("status", job.status),
        ("requested", job.requested_action),
        ("waits for", job.depends_on_job_id if job.status == "queued" else None),
        ("phase", job.phase if job.status == "running" else None),
        ("step", step),
        ("ETA", None if eta_seconds is None else format_duration(eta_seconds)),
        ("queue", progress.queue_position if job.status == "queued" else None),
        ("verdict", job.verdict),
        ("reason", reason),
        *((" ", line) for line in (job.status_reason or {}).get("details") or []),
        ("retry of", job.retry_of_job_id),
        ("priority", job.priority if job.priority != "normal" else None),
        ("deadline", job.deadline),
        ("GPU limit", None if job.max_gpu_seconds is None else format_duration(job.max_gpu_seconds)),
        ("metadata", ", ".join(f"{name}={value}" for name, value in job.metadata.items())),
        ("created", job.created_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("can", ", ".join(job.allowed_actions)),
    ]


def style_value(value: Any) -> str:
    """Escape a value for rich, and color statuses and verdicts."""
    text = escape(value.strftime("%Y-%m-%d %H:%M:%S UTC") if hasattr(value, "strftime") else str(value))
    style = VERDICT_STYLES.get(text) or STATUS_STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Resource) else str(value)
