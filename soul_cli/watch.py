"""Shows a running job: its events update one view, drawn as a live bar or as plain lines."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from soul_cli.errors import CliExitCode
from soul_cli.output import style_value
from soul_cli.resources import Job, JobEvent
from soul_cli.terminal import escape
from soul_core.formatting import format_duration

PHASE_TITLES = {
    "load": "loading the model",
    "compare": "measuring the other models",
    "baseline": "measuring before",
    "unlearn": "unlearning",
    "finetune": "fine-tuning",
    "evaluate": "measuring after",
    "attack": "attacking",
    "export": "writing the results",
}
#: Curves shown in the live line, in this order; all of them are in `soul report`.
SHOWN_CURVES = ("loss", "forget_loss", "retain_loss", "unclipped_fraction")
PLAIN_EVERY_SECONDS = 10.0


@dataclass
class JobView:
    """The state of a job, from its events so far."""

    status: str = "queued"
    phase: str | None = None
    done: int = 0
    total: int = 0
    unit: str = ""
    eta_seconds: float | None = None
    step: int | None = None
    curves: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Warnings and other lines to show, oldest first."""

    def apply(self, event: JobEvent) -> None:
        """Update the view with one event. Unknown kinds, which a newer server may send, change nothing."""
        data = event.data
        if event.kind == "phase":
            self.status, self.phase = "running", data.get("phase")
            self.done, self.total, self.unit, self.eta_seconds = 0, 0, "", None
        elif event.kind == "progress":
            self.status, self.phase = "running", data.get("phase", self.phase)
            self.done, self.total = int(data.get("done") or 0), int(data.get("total") or 0)
            self.unit, self.eta_seconds = str(data.get("unit") or ""), data.get("eta_seconds")
        elif event.kind == "metrics":
            self.step = data.get("step", self.step)
            self.curves |= {k: v for k, v in data.items() if k != "step" and isinstance(v, int | float)}
        elif event.kind == "warning":
            self.notes.append(str(data.get("message", "")))
        elif event.kind == "failed":
            self.notes.append(f"{data.get('code', 'failed')}: {data.get('message', '')}")
        elif (status := data.get("status") or data.get("to")) and isinstance(status, str):
            if status == "queued" and self.status == "running":
                self.notes.append("the worker stopped: the job is queued and resumes from its last checkpoint")
            elif status == "paused":
                self.notes.append("the job is paused: `soul resume` continues it from its last checkpoint")
            self.status = status

    @property
    def title(self) -> str:
        """The phase or the status, for display."""
        if self.status == "running" and self.phase:
            return PHASE_TITLES.get(self.phase, self.phase)
        return {"queued": "waiting for a worker"}.get(self.status, self.status)

    def format_curves(self) -> str:
        """Format the latest values of the main curves; empty outside training, where they do not change."""
        if self.phase not in {"unlearn", "finetune"}:
            return ""
        return "  ".join(
            f"{name.replace('_', ' ')} {self.curves[name]:.3f}" for name in SHOWN_CURVES if name in self.curves
        )

    def format_progress(self) -> str:
        """Format the progress of the phase."""
        return f"{self.unit or 'step'} {self.done}/{self.total}" if self.total else ""

    def format_eta(self) -> str:
        """Format the remaining time of the phase; empty if it is unknown."""
        return "" if self.eta_seconds is None else f"ETA {format_duration(self.eta_seconds)}"


def show_events(job_id: str, events: Iterable[JobEvent], console: Console) -> JobView:
    """Show events until the last: as a live bar on a terminal, else as lines. Return the final view."""
    return _show_live(job_id, events, console) if console.is_terminal else _show_plain(events, console)


def _show_live(job_id: str, events: Iterable[JobEvent], console: Console) -> JobView:
    view, spinner, started = JobView(), Spinner("dots"), time.monotonic()

    def render() -> RenderableType:
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=view.total or None, completed=view.done, width=30, pulse=not view.total)
        row.add_row(spinner, f"[bold]{escape(view.title)}[/]", bar, view.format_progress(), view.format_eta())
        elapsed = format_duration(time.monotonic() - started)
        return Group(row, Text(f"  {job_id}  {elapsed}  {view.format_curves()}", style="dim"))

    with Live(get_renderable=render, console=console, refresh_per_second=8, transient=True):
        phase, phase_started = None, time.monotonic()
        for event in events:
            num_notes = len(view.notes)
            view.apply(event)
            if view.phase != phase:
                _print_completed(phase, time.monotonic() - phase_started, console)
                phase, phase_started = view.phase, time.monotonic()
            for note in view.notes[num_notes:]:
                console.print(f"  [yellow]![/] {escape(note)}")
        _print_completed(phase, time.monotonic() - phase_started, console)
    return view


def _print_completed(phase: str | None, seconds: float, console: Console) -> None:
    if phase:
        console.print(f"  [green]✓[/] {PHASE_TITLES.get(phase, phase)} [dim]{format_duration(seconds)}[/]")


def _show_plain(events: Iterable[JobEvent], console: Console) -> JobView:
    view, shown_title, shown_at = JobView(), None, 0.0
    for event in events:
        num_notes = len(view.notes)
        view.apply(event)
        for note in view.notes[num_notes:]:
            console.print(f"warning: {escape(note)}")
        now = time.monotonic()
        if view.title != shown_title or now - shown_at >= PLAIN_EVERY_SECONDS:
            parts = [view.title, view.format_progress(), view.format_eta(), view.format_curves()]
            console.print("  ".join(escape(part) for part in parts if part), soft_wrap=True)
            shown_title, shown_at = view.title, now
    return view


def get_exit_code(job: Job) -> CliExitCode:
    """Return the exit code for a finished job."""
    from soul_core.report import Verdict  # takes 0.1 s to import, and most commands do not need it

    if job.status == "failed":
        return CliExitCode.JOB_FAILED
    if job.status == "cancelled":
        return CliExitCode.JOB_CANCELLED
    # An evaluation without criteria has nothing to pass.
    is_judged = job.kind != "evaluate" or bool(job.spec.get("criteria"))
    return CliExitCode.NOT_PASSED if is_judged and job.verdict not in {None, Verdict.PASSED} else CliExitCode.OK


def print_outcome(job: Job, console: Console) -> None:
    """Print the result of a finished job and the next commands."""
    console.print(
        f"Job {job.id}: {style_value(job.status)}" + (f", verdict {style_value(job.verdict)}" if job.verdict else "")
    )
    reason: dict[str, Any] = job.status_reason or {}
    if reason:
        console.print(
            f"  {escape(str(reason.get('code', '')))}: {escape(str(reason.get('message', '')))}", soft_wrap=True
        )
        for line in reason.get("details") or []:
            console.print(f"    {escape(str(line))}", soft_wrap=True)
    if job.status == "succeeded":
        checkpoint = {"unlearn": "the unlearned checkpoint", "finetune": "the fine-tuned checkpoint"}.get(job.kind)
        measurements = "the measurements, before and after" if checkpoint else "the measurements"
        console.print(f"  soul report {job.id}            {measurements}")
        if checkpoint:
            console.print(f"  soul download {job.id} -o out   {checkpoint}")
