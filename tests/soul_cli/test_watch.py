"""Events update one view of the job, and a finished job has an exit code."""

import io

import pytest
from rich.console import Console

from soul_cli.errors import CliExitCode
from soul_cli.resources import Job, JobEvent
from soul_cli.watch import JobView, get_exit_code, show_events

EVENTS = (
    ("status", {"status": "queued"}),
    ("status", {"status": "running"}),
    ("phase", {"phase": "load"}),
    ("phase", {"phase": "unlearn"}),
    ("metrics", {"step": 1, "loss": 2.5, "forget_loss": 1.0, "learning_rate": 1e-5}),
    ("progress", {"phase": "unlearn", "done": 1, "total": 20, "unit": "step", "eta_seconds": 65.0}),
    ("something_new", {"x": 1}),
    ("warning", {"message": "the unclipped fraction is low"}),
    ("status", {"status": "queued"}),
    ("status", {"status": "running"}),
    ("phase", {"phase": "export"}),
    ("status", {"status": "succeeded"}),
)


def make_events(num_events: int = len(EVENTS)) -> list[JobEvent]:
    return [JobEvent(seq=i, kind=kind, data=dict(data)) for i, (kind, data) in enumerate(EVENTS[:num_events], 1)]


def test_a_view_has_phase_step_loss_and_eta() -> None:
    view = JobView()
    for event in make_events(7):
        view.apply(event)
    assert view.title == "unlearning"
    assert view.format_progress() == "step 1/20"
    assert view.eta_seconds == 65.0
    assert view.format_curves() == "loss 2.500  forget loss 1.000"


def test_a_new_phase_resets_the_progress_and_a_requeue_is_noted() -> None:
    view = JobView()
    for event in make_events(11):
        view.apply(event)
    assert (view.done, view.total, view.eta_seconds) == (0, 0, None)
    assert view.notes[0] == "the unclipped fraction is low"
    assert "last checkpoint" in view.notes[1]


@pytest.mark.parametrize("terminal", [True, False])
def test_events_are_shown_in_order_on_a_terminal_and_in_a_log(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    view = show_events("job_1", make_events(), console)
    text = out.getvalue()
    assert view.status == "succeeded"
    assert text.index("loading the model") < text.index("unlearning") < text.index("writing the results")
    assert "the unclipped fraction is low" in text


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        ("succeeded", "passed", CliExitCode.OK),
        ("succeeded", "failed", CliExitCode.NOT_PASSED),
        ("succeeded", "inconclusive", CliExitCode.NOT_PASSED),
        ("failed", None, CliExitCode.JOB_FAILED),
        ("cancelled", None, CliExitCode.JOB_CANCELLED),
    ],
)
def test_every_finished_job_has_its_exit_code(status: str, verdict: str | None, code: CliExitCode) -> None:
    assert get_exit_code(Job(id="job_1", status=status, verdict=verdict)) == code


def test_a_pause_is_noted_with_the_command_that_resumes() -> None:
    view = JobView()
    for kind, data in (("status", {"status": "running"}), ("status", {"status": "paused"})):
        view.apply(JobEvent(seq=1, kind=kind, data=data))

    assert view.title == "paused"
    assert "soul resume" in view.notes[0]
