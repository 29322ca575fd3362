"""Markdown tables, and how they are written into a document."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from soul_core.atomic_io import write_atomically
from soul_core.formatting import format_number


def format_table(head: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """Return a Markdown table: numbers with three significant digits, None as a dash."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(_format_cell, row)) + " |" for row in rows])


def describe_machine() -> str:
    """Return the hardware and the torch version of this machine, without its host name."""
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else _find_processor_name()
    return f"{os.cpu_count()} CPU cores, {name}; torch {torch.__version__}; load {os.getloadavg()[1]:.1f} at the end"


def write_between(document: Path, mark: str, text: str) -> None:
    """Replace the text between `<!-- mark -->` and `<!-- /mark -->`. Raises ValueError without such a pair."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    content = document.read_text()
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{document} needs {begin} once and, after it, {end} once")
    before, rest = content.split(begin)
    write_atomically(document, f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}")


def describe_run(command: str) -> str:
    """Return the line above a table: command, date and machine."""
    return f"`{command}`, {datetime.now(UTC):%Y-%m-%d}; {describe_machine()}."


def _format_cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else format_number(value)


def _find_processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
