"""The complete benchmark, very small: two layers, a few rows, every step a real run of the engine."""

from pathlib import Path

import pytest

from bench import tofu_report
from tests.bench.test_tofu import needs_tofu


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "results.md"
    path.write_text("<!-- tofu_report -->\n<!-- /tofu_report -->\n")
    return path


def report(work: Path, document: Path) -> dict[str, list[str]]:
    tofu_report.main(
        ["--size", "tiny", "--work", str(work), "--results", str(document), "--example", str(work / "example")]
    )
    table = document.read_text().split("\n\n")[1]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines if not line[0].startswith("-")}


@needs_tofu
@pytest.mark.slow
def test_the_checks_have_their_verdicts_and_a_second_start_runs_nothing(
    work: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = report(work, document)
    verdict = first["model"].index("verdict")
    assert first["check: untouched"][verdict] == "failed"
    assert first["check: retrained"][verdict] == "passed"
    assert first["check: ascent too long"][verdict] == "failed"
    assert {"target", "retrained", "NPO, AdamW", "NPO, Sophia"} <= set(first)
    assert (work / "example" / "report.html").stat().st_size > 10_000
    capsys.readouterr()

    second = report(work, document)

    assert second == first
    assert "done in" not in capsys.readouterr().out
