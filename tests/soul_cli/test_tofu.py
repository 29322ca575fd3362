"""`soul tofu` on published logs and on reports of SOUL."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from soul_cli.main import app
from tests.fixtures.sample_report import sample_report
from tests.paths import SHARED
from tests.soul_core.evaluation.test_tofu_logs import make_measurements

LOGS = SHARED / "data" / "published_numbers" / "tofu_eval_logs"


@pytest.mark.skipif(not LOGS.is_dir(), reason="../shared/data does not exist")
def test_it_prints_the_four_numbers_as_json() -> None:
    unlearned = LOGS / "tofu_Llama-3.2-1B-Instruct_full__evals_forget05__TOFU_EVAL.json.gz"
    retain = LOGS / "tofu_Llama-3.2-1B-Instruct_retain95__TOFU_EVAL.json.gz"

    result = CliRunner().invoke(app, ["tofu", "score", str(unlearned), str(retain), "--json"])

    golden = json.loads((LOGS / "GOLDEN.json").read_text())["Llama-3.2-1B-Instruct|forget05"]
    scores = json.loads(result.stdout)
    assert result.exit_code == 0
    numbers = {"forget_quality", "model_utility", "retain_model_utility", "privleak"}
    assert set(scores) == numbers | {"rows_matched_by"}
    assert scores["rows_matched_by"] == "texts", "the official logs hold the answers"
    assert scores["forget_quality"] == pytest.approx(golden["p"], rel=1e-9)
    assert scores["privleak"] == pytest.approx(golden["privleak"])


def test_a_file_that_is_no_log_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")

    result = CliRunner().invoke(app, ["tofu", "score", str(tmp_path / "a.json"), str(tmp_path / "a.json")])

    assert result.exit_code == 2
    assert "is not a TOFU evaluation log" in result.stderr


@pytest.fixture
def reports(tmp_path: Path) -> tuple[Path, Path]:
    """Reports of an unlearned and of a retrained model, with TOFU's sets."""
    paths = (tmp_path / "unlearned.json", tmp_path / "retrained.json")
    for path, shift in zip(paths, (0.1, 0.0), strict=True):
        report = sample_report().model_copy(
            update={"models": {"unlearned": make_measurements(shift), "retrained": make_measurements()}}
        )
        path.write_text(report.model_dump_json())
    return paths


def test_two_reports_of_soul_are_scored_like_the_logs_written_from_them(
    reports: tuple[Path, Path], tmp_path: Path
) -> None:
    unlearned, retrained = reports
    for model, log in (("unlearned", "u.json.gz"), ("retrained", "r.json.gz")):
        written = CliRunner().invoke(app, ["tofu", "write", str(unlearned), str(tmp_path / log), "--model", model])
        assert written.exit_code == 0, written.output

    plain = CliRunner().invoke(app, ["tofu", "score", str(unlearned), str(retrained), "--json"])
    logs = CliRunner().invoke(app, ["tofu", "score", *(str(tmp_path / f"{name}.json.gz") for name in "ur"), "--json"])

    assert plain.exit_code == logs.exit_code == 0
    assert json.loads(plain.stdout) == pytest.approx(json.loads(logs.stdout))


def test_a_model_that_the_report_does_not_have_is_named_with_those_it_has(
    reports: tuple[Path, Path], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["tofu", "write", str(reports[0]), str(tmp_path / "x.json"), "--model", "base"])

    assert result.exit_code == 2
    assert "unlearned, retrained" in result.stderr


def test_muse_computes_six_criteria_from_a_report(reports: tuple[Path, Path]) -> None:
    plain = CliRunner().invoke(app, ["tofu", "muse", str(reports[0])])
    as_json = CliRunner().invoke(app, ["tofu", "muse", str(reports[0]), "--json"])

    assert plain.exit_code == as_json.exit_code == 0
    assert "sustainability" in plain.stdout
    assert [way["name"] for way in json.loads(as_json.stdout)][:2] == ["verbatim", "knowledge"]
