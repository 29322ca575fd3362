"""Guard rows: which rows they are, and that no training reads them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.pipeline.strategies import single
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, write_rows

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]


@pytest.fixture
def inputs(taught_model_dir: Path, tmp_path: Path) -> RunInputs:
    torch.set_num_threads(1)
    names = {"forget": FORGET, "retain": RETAIN * 2}  # fourteen rows, every content twice
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in names.items()}
    return RunInputs(model=str(taught_model_dir), dataset_paths=paths)


@pytest.fixture
def training_sets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each training of the test was given: forget, retain and guard examples."""
    sets: list[Any] = []
    original = single.get_training_sets

    def record(*arguments: Any) -> Any:
        sets.append(original(*arguments))
        return sets[-1]

    monkeypatch.setattr(single, "get_training_sets", record)
    return sets


def make_spec(**changes: Any) -> JobSpec:
    content = {
        "training": {"steps": 2},
        "evaluation": {"metrics": ["probability"], "bootstrap": 0, "general_text": []},
        "criteria": [],
        "attacks": [],
        "data": {"retain_held_out": 0},
    }
    return JobSpec.model_validate({**content, **changes})


def test_the_default_optimizer_gets_retain_rows_and_general_text(
    inputs: RunInputs, training_sets: list[Any], tmp_path: Path
) -> None:
    run(make_spec(), inputs, tmp_path / "out")

    _, retain, guard = training_sets[0]
    guard_rows = [example for example in guard if example.source_row.messages]
    assert len(guard_rows) == 2
    assert len(retain) == 12
    assert not {example.token_ids for example in guard_rows} & {example.token_ids for example in retain}
    assert len(guard) > 20, "with the passages of the shipped sample"
    assert guard[0].source_row.messages
    assert not guard[1].source_row.messages


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"kind": "adamw"}},
        {"optimizer": {"kind": "sophia", "lr": 1e-5, "curvature": {"data": "retain"}}},
    ],
)
def test_a_run_that_reads_no_guard_rows_trains_on_all_retain_rows(
    inputs: RunInputs, training_sets: list[Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(make_spec(**changes), inputs, tmp_path / "out")

    _, retain, guard = training_sets[0]
    assert (len(retain), len(guard)) == (14, 0)


def test_the_loss_of_the_guard_rows_is_a_curve_below_its_budget(inputs: RunInputs, tmp_path: Path) -> None:
    report = run(make_spec(training={"steps": 8, "stop_at": None}), inputs, tmp_path / "out")

    rises = report.run.curves["guard_rise"]
    assert len(rises) == report.run.steps
    assert all(rise is not None and 0 <= rise <= 0.2 + 0.2 / 8 for rise in rises)
