"""A job on an earlier job's output: the earlier forget set is measured and judged, and may be unlearned again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.conflicts.retain_set import resolve_conflicts
from soul_core.data.datasets import read_datasets
from soul_core.errors import BadData
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.soul_core.test_run import Recorder, expect_refusal

FIRST, SECOND, OTHERS = list(COUNTRIES)[:3], list(COUNTRIES)[3:6], list(COUNTRIES)[6:]

METRICS = ["probability", "keyword_recall", "leak_at_k"]
ONE_TRIAL = {"kind": "search", "trials": 1, "lr": [2e-3, 2e-3], "retain_weight": [3, 3], "eval_every": 20}


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "optimizer": {"kind": "sophia", "lr": 2e-3},
            "retain": {"kind": "nll", "weight": 3.0},
            "training": {"steps": 20},
            "evaluation": {"metrics": METRICS, "max_new_tokens": 12, "bootstrap": 50},
            "attacks": [],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def first(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, RunInputs]:
    """The first job's report, and the inputs of a second job: its checkpoint and its forget set as a prior one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("first")
    first_forget = write_rows(folder / "first.jsonl", FIRST)
    sets = {"forget": first_forget, "retain": write_rows(folder / "others.jsonl", SECOND + OTHERS)}
    report = run(spec(), RunInputs(model=str(taught_model_dir), dataset_paths=sets), folder / "out")
    second_datasets = {
        "forget": write_rows(folder / "second.jsonl", SECOND),
        "retain": write_rows(folder / "kept.jsonl", OTHERS),
        "prior_forget_1": first_forget,
    }
    return report, RunInputs(model=str(folder / "out" / "checkpoint"), dataset_paths=second_datasets)


def get_prior_values(report: Report, model: str = "unlearned") -> dict[str, float | None]:
    return {name: value.value for name, value in report.models[model].sets["prior_forget_1"].items()}


def outcomes(report: Report) -> set[tuple[str, str, str]]:
    """Return (metric, bound, outcome) of the criteria on the prior set."""
    results = [result for result in report.criteria if result.criterion.set == "prior_forget_1"]
    return {(result.criterion.metric, f"{result.bound}", result.outcome) for result in results}


def test_a_prior_forget_set_is_judged_and_can_be_unlearned_again(
    first: tuple[Report, RunInputs], tmp_path: Path
) -> None:
    before, inputs = first

    measured = run(spec(), inputs, tmp_path / "measure")
    joined = run(spec(prior_forget_sets="unlearn", strategy=ONE_TRIAL), inputs, tmp_path / "join")

    for report in (measured, joined):
        left = {name: value.value for name, value in before.models["unlearned"].sets["forget"].items()}
        assert get_prior_values(report, "base") == pytest.approx(left, rel=1e-4), (
            "the second job starts from the first job's output"
        )
        assert outcomes(report) == {(metric, "0.25", "passed") for metric in METRICS}
        assert "prior_forget_1" not in report.verdict_reason
        assert not any("was still known" in caveat for caveat in report.caveats)
    assert {"prior_forget_1 probability", "prior_forget_1 keyword_recall"} < set(joined.trials[0].values)
    assert (get_prior_values(joined)["probability"] or 0) < 0.5 * (get_prior_values(measured)["probability"] or 0)


def test_learning_a_prior_set_again_has_a_warning_and_fails_the_job(
    first: tuple[Report, RunInputs], tmp_path: Path
) -> None:
    sets = {**first[1].dataset_paths, "retain": write_rows(tmp_path / "all.jsonl", FIRST + OTHERS)}
    recorder = Recorder()

    report = run(
        spec(training={"steps": 40}, retain_conflicts="keep"),
        RunInputs(model=first[1].model, dataset_paths=sets),
        tmp_path / "out",
        listener=recorder,
    )

    assert ("probability", "0.25", "failed") in outcomes(report)
    assert report.verdict == "failed"
    assert "prior_forget_1 probability" in report.verdict_reason
    warning = "3 rows of the retain set state, or ask for, facts of the prior_forget_1 set: they are learned again"
    assert any(data["message"].startswith(warning) for data in recorder.of("warning"))
    assert f"{warning}." in report.caveats


def test_a_prior_set_that_is_still_known_has_a_caveat_and_fails_the_job(
    first: tuple[Report, RunInputs], taught_model_dir: Path, tmp_path: Path
) -> None:
    report = run(
        spec(training={"steps": 1}),
        RunInputs(model=str(taught_model_dir), dataset_paths=first[1].dataset_paths),
        tmp_path,
    )

    assert outcomes(report) == {(metric, "0.25", "failed") for metric in METRICS}
    (caveat,) = [caveat for caveat in report.caveats if "was still known when this job began" in caveat]
    assert caveat.startswith("The prior_forget_1 set was still known when this job began (probability 0.99")
    assert "keyword_recall 1, leak_at_k 1)" in caveat


def test_fine_tuning_on_a_prior_set_has_a_warning_and_fails(first: tuple[Report, RunInputs], tmp_path: Path) -> None:
    sets = {
        "train": write_rows(tmp_path / "all.jsonl", FIRST + OTHERS),
        "prior_forget_1": first[1].dataset_paths["prior_forget_1"],
    }
    learning = {"kind": "finetune", "optimizer": {"kind": "adamw", "lr": 5e-3}, "training": {"steps": 40}}
    recorder = Recorder()

    report = run(
        JobSpec.model_validate({**spec().model_dump(include={"evaluation"}), **learning}),
        RunInputs(model=first[1].model, dataset_paths=sets),
        tmp_path / "out",
        listener=recorder,
    )

    assert report.verdict == "failed"
    assert "prior_forget_1 probability" in report.verdict_reason
    warning = "3 rows of the train set state, or ask for, facts of the prior_forget_1 set: they are learned again"
    assert any(data["message"].startswith(warning) for data in recorder.of("warning"))
    assert f"{warning}." in report.caveats


def test_rows_cannot_be_both_unlearned_again_and_retained(first: tuple[Report, RunInputs], tmp_path: Path) -> None:
    sets = {**first[1].dataset_paths, "retain": first[1].dataset_paths["prior_forget_1"]}

    error, _ = expect_refusal(first[1], tmp_path, spec(prior_forget_sets="unlearn"), dataset_paths=sets)

    assert isinstance(error, BadData)
    assert error.message.startswith("the prior_forget_1 set and the retain set hold the same rows, which cannot")


def test_criteria_on_prior_sets_expand_to_each_given_set() -> None:
    expanded = JobSpec().expand_criteria(["forget", "prior_forget_1", "prior_forget_2"])

    prior = ["prior_forget_1", "prior_forget_2"] * 3
    others = [criterion.set for criterion in JobSpec().criteria if criterion.set != "prior_forget_*"]
    assert [criterion.set for criterion in expanded] == [*others[:3], *prior, *others[3:]]
    assert [criterion.set for criterion in JobSpec().expand_criteria(["forget", "retain"])] == others


@pytest.mark.parametrize(
    ("kind", "retain", "shared"), [("finetune", OTHERS, 3), ("evaluate", OTHERS, 0), ("evaluate", FIRST, 3)]
)
def test_rows_shared_with_the_learned_set_are_refused_for_unlearning_only(
    kind: str, retain: list[str], shared: int, tmp_path: Path
) -> None:
    sets = {"forget": FIRST, "retain": retain, "train": FIRST}
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in sets.items()}
    other = JobSpec.model_validate({"kind": kind})

    conflicts = resolve_conflicts(read_datasets(paths, other, Recorder()), other, Recorder()).conflicts

    assert sum(conflict.num_rows for conflict in conflicts if conflict.other_set == other.learned_set) == shared
    with pytest.raises(BadData, match="the same rows"):
        resolve_conflicts(read_datasets({**paths, "retain": paths["forget"]}, spec(), Recorder()), spec(), Recorder())
