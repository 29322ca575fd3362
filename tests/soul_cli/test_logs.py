"""`soul logs score` on real logs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from soul_cli.main import app

LOGS = Path(__file__).parents[3] / "shared" / "data" / "published_numbers" / "tofu_eval_logs"


@pytest.mark.skipif(not LOGS.is_dir(), reason="../shared/data is not beside this checkout")
def test_it_prints_the_four_numbers_as_json() -> None:
    unlearned = LOGS / "tofu_Llama-3.2-1B-Instruct_full__evals_forget05__TOFU_EVAL.json.gz"
    retain = LOGS / "tofu_Llama-3.2-1B-Instruct_retain95__TOFU_EVAL.json.gz"

    result = CliRunner().invoke(app, ["logs", "score", str(unlearned), str(retain), "--json"])

    golden = json.loads((LOGS / "GOLDEN.json").read_text())["Llama-3.2-1B-Instruct|forget05"]
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(found) == {"forget_quality", "model_utility", "retain_model_utility", "privleak"}
    assert found["forget_quality"] == pytest.approx(golden["p"], rel=1e-9)
    assert found["privleak"] == pytest.approx(golden["privleak"])


def test_a_file_that_is_no_log_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")

    result = CliRunner().invoke(app, ["logs", "score", str(tmp_path / "a.json"), str(tmp_path / "a.json")])

    assert result.exit_code == 2
    assert "no TOFU evaluation log" in result.stderr
