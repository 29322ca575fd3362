"""Texts of others in a terminal."""

import io

import pytest
from rich.console import Console

from soul_cli import output


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal that knows colors receives."""
    received = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=received, force_terminal=True, highlight=False, width=200))
    return received


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x1b[2Jgone", "\x9b31m", "a\rb", "a\u202eb", "[red]x[/]"])
def test_a_name_cannot_control_the_terminal(screen: io.StringIO, text: str) -> None:
    output.print_fields([("name", text)])
    output.print_table(["name"], [[text]])

    shown = screen.getvalue()
    for sequence in ("\x1b]0", "\x1b[2J", "\x9b", "\r", "\u202e", "\x1b[31mx"):
        assert sequence not in shown
