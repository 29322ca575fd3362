"""What the terminal shows during a run and after it."""

import io
from pathlib import Path

from soul_core.console import ConsoleListener, format_result_table
from soul_core.events import StopRequest
from tests.fixtures.sample_report import sample_report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_with_step_loss_and_time_left() -> None:
    stream = Terminal()
    console = ConsoleListener(stream)
    console.emit("phase", phase="unlearn")
    console.emit("metrics", step=3, loss=1.23456, forget_loss=2.5, grad_norm=9.0)
    console.emit("progress", phase="unlearn", done=3, total=20, unit="steps", eta_seconds=75)
    last = stream.getvalue().rsplit("\r\x1b[K", 1)[1]
    assert last == "  step 3 of 20 · loss 1.23 · forget loss 2.5 · 1 min 15 s left"
    console.emit("warning", message="careful")
    assert stream.getvalue().endswith("left\nwarning: careful\n")


def test_a_log_file_has_few_progress_lines() -> None:
    stream = io.StringIO()
    console = ConsoleListener(stream)
    for done in range(1, 101):
        console.emit("progress", phase="evaluate", done=done, total=100, unit="rows")
    assert len(stream.getvalue().splitlines()) <= 3
    assert "row 100 of 100" in stream.getvalue()


def test_a_failure_is_one_line_and_its_details() -> None:
    stream = io.StringIO()
    ConsoleListener(stream).emit(
        "failed", code="bad_data", message="2 rows are bad", details=["row 3: empty", "row 9: empty"]
    )
    assert stream.getvalue() == "bad_data: 2 rows are bad\n  row 3: empty\n  row 9: empty\n"


def test_an_interrupt_does_not_replace_a_cancel() -> None:
    console = ConsoleListener(io.StringIO())
    console.request_stop(StopRequest.CANCEL)
    console.request_stop(StopRequest.INTERRUPT)
    assert console.stop_request() is StopRequest.CANCEL


def test_the_table_has_verdict_metrics_and_criteria() -> None:
    report = sample_report()
    table = format_result_table(report, Path("out"))
    lines = table.splitlines()
    assert lines[0].startswith("Passed")
    assert any(line.startswith("forget") and "Answer probability" in line and "[" in line for line in lines)
    assert sum(line.startswith("  passed") for line in lines) == len(report.criteria)
    assert "out/report.html" in table
