"""A run at a terminal: one progress line on stderr, the result as a table on stdout. Torch-free."""

import time
from pathlib import Path
from typing import Any, TextIO

from soul_core.catalogue import METRIC_CATALOG
from soul_core.events import EventKind, StopRequest
from soul_core.formatting import format_duration, format_estimate, format_number
from soul_core.outputs.layout import CHECKPOINT, REPORT_PAGE
from soul_core.rendering.labels import get_bound_title, get_headline
from soul_core.report import MetricValue, Report

_PHASES = {
    "load": "Loading model and data",
    "compare": "Measuring another model",
    "baseline": "Measuring the base model",
    "unlearn": "Unlearning",
    "finetune": "Fine-tuning",
    "evaluate": "Measuring the model",
    "attack": "Attacking",
    "export": "Writing the results",
}
#: Seconds between two progress lines, at least, if the stream is not a terminal.
_LOG_SECONDS = 10.0


class ConsoleListener:
    """Writes events as text: one line that is updated on a terminal, or a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._stop_request = StopRequest.NONE
        self._losses: dict[str, float] = {}
        self._has_open_line = False
        self._logged_at = 0.0

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Write one event."""
        if kind == "phase":
            self._losses = {}
            detail = f": {data['detail']}" if data.get("detail") else ""
            self._write_line(_PHASES.get(data["phase"], data["phase"]) + detail)
        elif kind == "metrics":
            self._losses = {name: data[name] for name in ("loss", "forget_loss", "retain_loss") if name in data}
        elif kind == "progress":
            self._write_progress(data)
        elif kind == "warning":
            self._write_line(f"warning: {data['message']}")
        elif kind == "failed":
            self._write_line(f"{data['code']}: {data['message']}")
            for detail in data.get("details", ()):
                self._write_line(f"  {detail}")

    def stop_request(self) -> StopRequest:
        """Return the stop request that a signal set."""
        return self._stop_request

    def request_stop(self, request: StopRequest) -> None:
        """Set the stop request. An interrupt does not replace a cancel."""
        if self._stop_request is StopRequest.NONE and request is StopRequest.INTERRUPT:
            self._write_line("stopping after this step with a checkpoint; Ctrl-C again stops at once")
        if self._stop_request is not StopRequest.CANCEL:
            self._stop_request = request

    def _write_progress(self, data: dict[str, Any]) -> None:
        done, total = data["done"], data["total"]
        parts = [f"  {data['unit'].rstrip('s')} {done} of {total}"]
        parts += [f"{name.replace('_', ' ')} {format_number(value)}" for name, value in self._losses.items()]
        if data.get("eta_seconds") is not None and done < total:
            parts.append(f"{format_duration(data['eta_seconds'])} left")
        text = " · ".join(parts)
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._has_open_line = True
        elif time.monotonic() - self._logged_at >= _LOG_SECONDS or done == total:
            self._logged_at = time.monotonic()
            self._write_line(text)

    def _write_line(self, text: str) -> None:
        self._stream.write(("\n" if self._has_open_line else "") + text + "\n")
        self._stream.flush()
        self._has_open_line = False


def format_result_table(report: Report, out: Path) -> str:
    """Return verdict, metrics and criteria as plain text."""
    # scipy takes a second, for which `--help` and messages about mistakes need not wait
    from soul_core.evaluation.verdict import format_criterion

    models = list(report.models)
    rows = [["set", "metric", *models]]
    sets = dict.fromkeys(name for model in report.models.values() for name in model.sets)
    for name in sets:
        metrics = dict.fromkeys(m for model in report.models.values() for m in model.sets.get(name, {}))
        for metric in metrics:
            values = [report.models[model].sets.get(name, {}).get(metric) for model in models]
            if any(value and value.value is not None for value in values):
                title = METRIC_CATALOG[metric].title if metric in METRIC_CATALOG else metric
                rows.append([name, title, *map(_cell, values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    criteria = [
        f"  {result.outcome:<13}{format_criterion(asked)} {get_bound_title(asked)}: {result.reason}"
        for result in report.criteria
        for asked in [result.criterion]
    ]
    head = [get_headline(report), report.verdict_reason, ""]
    places = [f"Report: {out / REPORT_PAGE}"]
    if report.spec.kind != "evaluate":
        places.append(f"Model:  {out / CHECKPOINT}")
    return "\n".join([*head, *lines, "", *criteria, "", *places])


def _cell(value: MetricValue | None) -> str:
    return format_estimate(value.value, value.interval, absent="-") if value else "-"
