"""A job that begins with an earlier job's output: what that one forgot is measured, judged, and may join."""

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
from tests.soul_core.test_run import Recorder, refused

FIRST, SECOND, KEPT = list(COUNTRIES)[:3], list(COUNTRIES)[3:6], list(COUNTRIES)[6:]

ONE_TRIAL = {"kind": "search", "trials": 1, "lr": [2e-3, 2e-3], "retain_weight": [3, 3], "eval_every": 20}


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "optimizer": {"kind": "sophia", "lr": 2e-3},
            "retain": {"kind": "nll", "weight": 3.0},
            "training": {"steps": 20},
            "evaluation": {"metrics": ["probability", "keyword_recall"], "max_new_tokens": 12, "bootstrap": 50},
            "attacks": [],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def first(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, RunInputs]:
    """The first job's report, and the inputs of the next one: its checkpoint, and its forget set as an earlier one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("first")
    forgotten = write_rows(folder / "first.jsonl", FIRST)
    sets = {"forget": forgotten, "retain": write_rows(folder / "others.jsonl", SECOND + KEPT)}
    report = run(spec(), RunInputs(model=str(taught_model_dir), dataset_paths=sets), folder / "out")
    following = {
        "forget": write_rows(folder / "second.jsonl", SECOND),
        "retain": write_rows(folder / "kept.jsonl", KEPT),
        "prior_forget_1": forgotten,
    }
    return report, RunInputs(model=str(folder / "out" / "checkpoint"), dataset_paths=following)


def of_earlier(report: Report, model: str = "unlearned") -> dict[str, float | None]:
    return {name: each.value for name, each in report.models[model].sets["prior_forget_1"].items()}


def outcomes(report: Report) -> set[tuple[str, str, str]]:
    """Return (metric, bound, outcome) of the criteria on the earlier set."""
    of_set = [each for each in report.criteria if each.criterion.set == "prior_forget_1"]
    return {(each.criterion.metric, f"{each.bound}", each.outcome) for each in of_set}


def test_what_the_first_job_forgot_is_judged_by_the_second_and_forgotten_further_where_it_joins(
    first: tuple[Report, RunInputs], tmp_path: Path
) -> None:
    before, inputs = first

    measured = run(spec(), inputs, tmp_path / "measure")
    joined = run(spec(prior_forget_sets="unlearn", strategy=ONE_TRIAL), inputs, tmp_path / "join")

    for report in (measured, joined):
        left = {name: each.value for name, each in before.models["unlearned"].sets["forget"].items()}
        assert of_earlier(report, "base") == pytest.approx(left, rel=1e-4), "it began with the first job's output"
        assert outcomes(report) == {("probability", "0.25", "passed"), ("keyword_recall", "0.25", "passed")}
        assert "prior_forget_1" not in report.verdict_reason
        assert not any("was still known" in caveat for caveat in report.caveats)
    assert {"prior_forget_1 probability", "prior_forget_1 keyword_recall"} < set(joined.trials[0].values)
    assert (of_earlier(joined)["probability"] or 0) < 0.5 * (of_earlier(measured)["probability"] or 0)


def test_an_earlier_set_that_is_learned_again_fails_the_job_and_was_warned_of(
    first: tuple[Report, RunInputs], tmp_path: Path
) -> None:
    sets = {**first[1].dataset_paths, "retain": write_rows(tmp_path / "all.jsonl", FIRST + KEPT)}
    heard = Recorder()

    report = run(
        spec(training={"steps": 40}, retain_conflicts="keep"),
        RunInputs(model=first[1].model, dataset_paths=sets),
        tmp_path / "out",
        listener=heard,
    )

    assert ("probability", "0.25", "failed") in outcomes(report)
    assert report.verdict == "failed"
    assert "prior_forget_1 probability" in report.verdict_reason
    said = "3 rows of the retain set state, or ask for, facts of the prior_forget_1 set: they are learned again"
    assert any(one["message"].startswith(said) for one in heard.of("warning"))
    assert f"{said}." in report.caveats


def test_an_earlier_set_that_is_known_from_the_start_is_admitted_and_fails_the_job(
    first: tuple[Report, RunInputs], taught_model_dir: Path, tmp_path: Path
) -> None:
    report = run(
        spec(training={"steps": 1}),
        RunInputs(model=str(taught_model_dir), dataset_paths=first[1].dataset_paths),
        tmp_path,
    )

    assert outcomes(report) == {("probability", "0.25", "failed"), ("keyword_recall", "0.25", "failed")}
    (caveat,) = [caveat for caveat in report.caveats if "was still known when this job began" in caveat]
    assert caveat.startswith("The prior_forget_1 set was still known when this job began (probability 0.99")
    assert "keyword_recall 1)" in caveat


def test_fine_tuning_that_teaches_an_earlier_set_again_fails_and_was_warned_of(
    first: tuple[Report, RunInputs], tmp_path: Path
) -> None:
    sets = {
        "train": write_rows(tmp_path / "all.jsonl", FIRST + KEPT),
        "prior_forget_1": first[1].dataset_paths["prior_forget_1"],
    }
    learning = {"kind": "finetune", "optimizer": {"kind": "adamw", "lr": 5e-3}, "training": {"steps": 40}}
    heard = Recorder()

    report = run(
        JobSpec.model_validate({**spec().model_dump(include={"evaluation"}), **learning}),
        RunInputs(model=first[1].model, dataset_paths=sets),
        tmp_path / "out",
        listener=heard,
    )

    assert report.verdict == "failed"
    assert "prior_forget_1 probability" in report.verdict_reason
    said = "3 rows of the train set state, or ask for, facts of the prior_forget_1 set: they are learned again"
    assert any(one["message"].startswith(said) for one in heard.of("warning"))
    assert f"{said}." in report.caveats


def test_rows_cannot_be_unlearned_again_and_kept(first: tuple[Report, RunInputs], tmp_path: Path) -> None:
    sets = {**first[1].dataset_paths, "retain": first[1].dataset_paths["prior_forget_1"]}

    error, _ = refused(first[1], tmp_path, spec(prior_forget_sets="unlearn"), dataset_paths=sets)

    assert isinstance(error, BadData)
    assert error.message.startswith("the prior_forget_1 set and the retain set hold the same rows, which cannot")


def test_criteria_on_earlier_sets_are_asked_of_each_there_is() -> None:
    asked = JobSpec().expand_criteria(["forget", "prior_forget_1", "prior_forget_2"])

    assert [each.set for each in asked] == ["forget"] * 2 + ["prior_forget_1", "prior_forget_2"] * 2 + ["retain"] * 2
    assert {each.set for each in JobSpec().expand_criteria(["forget", "retain"])} == {"forget", "retain"}


@pytest.mark.parametrize(
    ("kind", "retain", "shared"), [("finetune", KEPT, 3), ("evaluate", KEPT, 0), ("evaluate", FIRST, 3)]
)
def test_shared_rows_are_those_of_what_is_learned_and_only_unlearning_is_refused_for_them(
    kind: str, retain: list[str], shared: int, tmp_path: Path
) -> None:
    sets = {"forget": FIRST, "retain": retain, "train": FIRST}
    paths = {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in sets.items()}
    other = JobSpec.model_validate({"kind": kind})

    found = resolve_conflicts(read_datasets(paths, other, Recorder()), other, Recorder()).conflicts

    assert sum(one.num_rows for one in found if one.other_set == other.learned_set) == shared
    with pytest.raises(BadData, match="the same rows"):
        resolve_conflicts(read_datasets({**paths, "retain": paths["forget"]}, spec(), Recorder()), spec(), Recorder())
