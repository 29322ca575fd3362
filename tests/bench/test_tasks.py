"""The benchmark of the tasks, very small: every row of its table is two real runs of the engine."""

import json
from pathlib import Path

import pytest

from bench import tasks
from soul_core.spec import JobSpec
from soul_core.tasks import TASKS
from tests.bench.test_tofu import needs_tofu


def test_every_task_has_a_measure_that_its_spec_computes() -> None:
    assert list(tasks.TASK_SETTINGS) == list(TASKS)
    for name, task in TASKS.items():
        assert tasks.TASK_SETTINGS[name].measure[1] in JobSpec.model_validate(task.recipe).evaluation.metrics


@needs_tofu
@pytest.mark.slow
def test_each_variant_is_learned_and_unlearned_and_a_second_start_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "results.md"
    document.write_text("<!-- tasks -->\n<!-- /tasks -->\n")
    arguments = ["--size", "tiny", "--work", str(tmp_path / "work"), "--results", str(document)]
    arguments += ["--lr", "0.01", "--tasks", "personal_data", "general_text"]

    tasks.main(arguments)
    table = document.read_text().split("\n\n")[1].splitlines()[2:]
    capsys.readouterr()
    tasks.main(arguments)

    assert [line.split("|")[1].strip() for line in table] == [
        "personal_data question_answer",
        "personal_data free_text",
        "general_text",
    ]
    assert "done in" not in capsys.readouterr().out
    spec = json.loads((tmp_path / "work" / "forget-personal_data-free_text" / "spec.json").read_text())
    overridden = {"seed", "optimizer", "training", "evaluation", "attacks"}
    recipe = TASKS["personal_data"].describe()["recipe"]
    assert {**recipe, **{name: spec[name] for name in overridden}} == spec
    assert spec["training"] == recipe["training"]
    assert spec["optimizer"] == recipe["optimizer"] | {"lr": 0.01}
