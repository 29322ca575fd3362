"""A job as it happens: events folded into one view, shown as a live bar or as plain lines."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from soul_cli.errors import CliExitCode
from soul_cli.output import style_value
from soul_cli.resources import Job, JobEvent
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
#: Curves worth a place in one line, in this order; the rest is in `soul report`.
SHOWN_CURVES = ("loss", "forget_loss", "retain_loss", "unclipped_fraction")
PLAIN_EVERY_SECONDS = 10.0


@dataclass
class JobView:
    """What is known of a job from its events so far."""

    status: str = "queued"
    phase: str | None = None
    done: int = 0
    total: int = 0
    unit: str = ""
    eta_seconds: float | None = None
    step: int | None = None
    curves: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # warnings and what else a person should see, oldest first

    def apply(self, event: JobEvent) -> None:
        """Fold one event in. Unknown kinds change nothing: a newer server may send them."""
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
            self._change(status)

    def _change(self, status: str) -> None:
        if status == "queued" and self.status == "running":
            self.notes.append("the worker was lost or left: the job waits and will go on from its last checkpoint")
        self.status = status

    @property
    def title(self) -> str:
        """Say in words what happens now."""
        if self.status == "running" and self.phase:
            return PHASE_TITLES.get(self.phase, self.phase)
        return {"queued": "waiting for a worker"}.get(self.status, self.status)

    def format_curves(self) -> str:
        """Write the newest values of the main curves; only while training, where they move."""
        if self.phase not in {"unlearn", "finetune"}:
            return ""
        return "  ".join(
            f"{name.replace('_', ' ')} {self.curves[name]:.3f}" for name in SHOWN_CURVES if name in self.curves
        )

    def format_progress(self) -> str:
        """Write how far the phase is."""
        return f"{self.unit or 'step'} {self.done}/{self.total}" if self.total else ""


def watch(job_id: str, events: Iterable[JobEvent], console: Console) -> JobView:
    """Show events until they end: a live bar on a terminal, a line now and then elsewhere. Return the last view."""
    return _watch_live(job_id, events, console) if console.is_terminal else _watch_plain(events, console)


def _watch_live(job_id: str, events: Iterable[JobEvent], console: Console) -> JobView:
    view, spinner, started = JobView(), Spinner("dots"), time.monotonic()

    def render() -> RenderableType:
        row = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=view.total or None, completed=view.done, width=30, pulse=not view.total)
        eta = f"ETA {format_duration(view.eta_seconds)}" if view.eta_seconds is not None else ""
        row.add_row(spinner, f"[bold]{escape(view.title)}[/]", bar, view.format_progress(), eta)
        elapsed = format_duration(time.monotonic() - started)
        return Group(row, Text(f"  {job_id}  {elapsed}  {view.format_curves()}", style="dim"))

    with Live(get_renderable=render, console=console, refresh_per_second=8, transient=True):
        phase, begun = None, time.monotonic()
        for event in events:
            num_notes = len(view.notes)
            view.apply(event)
            if view.phase != phase:
                _say_done(phase, time.monotonic() - begun, console)
                phase, begun = view.phase, time.monotonic()
            for note in view.notes[num_notes:]:
                console.print(f"  [yellow]![/] {escape(note)}")
        _say_done(phase, time.monotonic() - begun, console)
    return view


def _say_done(phase: str | None, took_seconds: float, console: Console) -> None:
    if phase:
        console.print(f"  [green]✓[/] {PHASE_TITLES.get(phase, phase)} [dim]{format_duration(took_seconds)}[/]")


def _watch_plain(events: Iterable[JobEvent], console: Console) -> JobView:
    view, said, said_at = JobView(), None, 0.0
    for event in events:
        num_notes = len(view.notes)
        view.apply(event)
        for note in view.notes[num_notes:]:
            console.print(f"warning: {escape(note)}")
        now = time.monotonic()
        if view.title != said or now - said_at >= PLAIN_EVERY_SECONDS:
            eta = f"ETA {format_duration(view.eta_seconds)}" if view.eta_seconds is not None else ""
            parts = [view.title, view.format_progress(), eta, view.format_curves()]
            console.print("  ".join(escape(part) for part in parts if part), soft_wrap=True)
            said, said_at = view.title, now
    return view


def get_exit_code(job: Job) -> CliExitCode:
    """Return the exit code that a finished job stands for."""
    from soul_core.report import Verdict  # its classes cost a tenth of a second, and most commands need none

    if job.status == "failed":
        return CliExitCode.JOB_FAILED
    if job.status == "cancelled":
        return CliExitCode.JOB_CANCELLED
    asked = job.kind != "evaluate" or bool(job.spec.get("criteria"))  # an audit without criteria has nothing to pass
    return CliExitCode.NOT_PASSED if asked and job.verdict not in {None, Verdict.PASSED} else CliExitCode.OK


def print_outcome(job: Job, console: Console) -> None:
    """Tell how the job ended and what can be done next."""
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
        made = {"unlearn": "the unlearned checkpoint", "finetune": "the fine-tuned checkpoint"}.get(job.kind)
        console.print(f"  soul report {job.id}            what was measured" + (", before and after" if made else ""))
        if made:
            console.print(f"  soul download {job.id} -o out   {made}")
