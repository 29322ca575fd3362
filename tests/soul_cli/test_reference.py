"""docs/reference/cli.md has the help of every command, and does not depend on the terminal."""

from pathlib import Path

import pytest

from soul_cli.reference import main, render_reference
from tests.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "cli.md"


def test_the_committed_page_is_current_and_has_every_command() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert main(["--check", str(PAGE)]) == 0
    for command in ("soul", "soul submit", "soul models", "soul models add", "soul verify-export"):
        assert f"## {command}\n\n```text\nUsage: {command} " in page
        assert f"](#{command.replace(' ', '-')}) |" in page
    assert "--dataset NAME=FILE" in page


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "40"}, {"COLUMNS": "300"}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "dumb"}],
    ids=str,
)
def test_the_page_is_the_same_on_every_terminal(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert render_reference() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["old", None])
def test_a_stale_or_missing_copy_fails_the_check_and_names_the_remedy(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "cli.md"
    if content is not None:
        copy.write_text(content)

    code = main(["--check", str(copy)])

    assert code == 1
    assert "make openapi" in capsys.readouterr().err
