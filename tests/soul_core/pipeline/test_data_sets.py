"""Runs with rows held out of the retain set: never trained on, measured, described, and the same after a stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.conflicts.retain_set import ConflictResolution
from soul_core.data.datasets import read_datasets
from soul_core.errors import RunInterruptedError
from soul_core.events import StopRequest
from soul_core.pipeline.data_sets import prepare_datasets
from soul_core.pipeline.model_under_test import ModelUnderTest
from soul_core.pipeline.strategies import single
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.spec.validation import find_spec_problems
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.soul_core.test_run import Recorder, drop_times, weights

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "optimizer": {"kind": "sophia", "lr": 2e-3},
            "retain": {"kind": "kl", "weight": 10.0},
            "training": {"steps": 8, "checkpoint_every": 2},
            "evaluation": {"max_new_tokens": 8, "bootstrap": 50, "num_answer_samples": 0},
            "attacks": [],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {name: write_rows(folder / name, rows) for name, rows in {"forget": FORGET, "retain": RETAIN}.items()}


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, paths: dict[str, Path]) -> RunInputs:
    torch.set_num_threads(1)
    return RunInputs(model=str(taught_model_dir), dataset_paths=paths)


@pytest.fixture(scope="module")
def report_and_folder(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("finished")
    return run(spec(), inputs, out), out


def prepare(paths: dict[str, Path], **changes: Any) -> tuple[ConflictResolution, list[str]]:
    listener, job = Recorder(), spec(**changes)
    resolution = prepare_datasets(read_datasets(paths, job, listener), job, listener)
    return resolution, [event["message"] for event in listener.of("warning")]


def list_answers(resolution: ConflictResolution, name: str) -> set[str]:
    return {row.completion for row in resolution.rows.get(name, ())}


def test_no_training_gets_a_held_out_row(inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[ModelUnderTest] = []
    original = single.get_training_sets

    def record(model: ModelUnderTest, job: JobSpec) -> Any:
        trained.append(model)
        sets.append(original(model, job))
        return sets[-1]

    sets: list[Any] = []
    monkeypatch.setattr(single, "get_training_sets", record)

    run(spec(), inputs, tmp_path)

    held_out = {example.token_ids for example in trained[0].held_out_examples}
    assert len(held_out) == 2
    assert not held_out & {example.token_ids for _, retain in sets for example in retain}


def test_the_report_says_what_was_held_out_and_judges_it(report_and_folder: tuple[Report, Path]) -> None:
    report, _ = report_and_folder
    data = {facts.name: facts for facts in report.data}

    assert (data["retain"].num_rows, data["retain"].origin) == (5, "given")
    assert (data["retain_held_out"].num_rows, data["retain_held_out"].origin) == (2, "held_out")
    assert data["retain_held_out"].selection == "2 of 7 retain rows, selected by the seed and their content"
    assert (data["general"].origin, data["general_own"].origin) == ("shipped", "sampled")
    values = {(result.criterion.set, result.criterion.metric): result.value for result in report.criteria}
    measured = {("retain_held_out", "probability"), ("general", "perplexity"), ("general_own", "perplexity")}
    assert all(values[pair] is not None for pair in measured)


def test_a_finished_run_with_made_sets_is_recognized(report_and_folder: tuple[Report, Path], inputs: RunInputs) -> None:
    report, out = report_and_folder

    assert run(spec(), inputs, out) == report


def test_a_stopped_run_resumes_with_the_same_held_out_rows_and_texts(
    report_and_folder: tuple[Report, Path], inputs: RunInputs, tmp_path: Path
) -> None:
    report, out = report_and_folder
    stopping = Recorder(StopRequest.INTERRUPT, when=lambda kind, data: kind == "checkpoint")
    with pytest.raises(RunInterruptedError):
        run(spec(), inputs, tmp_path, listener=stopping)

    resumed = run(spec(), inputs, tmp_path)

    assert drop_times(resumed) == drop_times(report)
    assert all(torch.equal(weights(tmp_path)[name], tensor) for name, tensor in weights(out).items())


def test_the_order_of_the_retain_rows_does_not_change_what_is_held_out(paths: dict[str, Path], tmp_path: Path) -> None:
    reversed_paths = {**paths, "retain": write_rows(tmp_path / "retain", RETAIN[::-1])}

    in_order, reverse = prepare(paths)[0], prepare(reversed_paths)[0]

    assert list_answers(in_order, "retain_held_out") == list_answers(reverse, "retain_held_out") != set()


@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_very_small_retain_set_is_not_split(paths: dict[str, Path], tmp_path: Path, num_rows: int) -> None:
    resolution, _ = prepare({**paths, "retain": write_rows(tmp_path / "retain", RETAIN[:num_rows])})

    assert "retain_held_out" not in resolution.rows
    assert len(resolution.rows["retain"]) == num_rows


def test_a_given_split_replaces_the_own_one(paths: dict[str, Path], tmp_path: Path) -> None:
    given = {"retain": RETAIN[2:], "retain_held_out": RETAIN[:3]}
    files = {name: write_rows(tmp_path / name, countries) for name, countries in given.items()}

    resolution, warnings = prepare({**paths, **files})

    assert {name: len(resolution.rows[name]) for name in given} == {"retain": 5, "retain_held_out": 3}
    assert any("1 row of the retain_held_out set is in the retain set too" in warning for warning in warnings)


def test_rows_with_kept_forget_facts_are_not_held_out(paths: dict[str, Path], tmp_path: Path) -> None:
    mixed = {**paths, "retain": write_rows(tmp_path / "retain", [*FORGET, *RETAIN])}

    held_out = [
        list_answers(prepare(mixed, retain_conflicts="keep", seed=seed)[0], "retain_held_out") for seed in range(9)
    ]

    facts = list_answers(prepare(paths)[0], "forget")
    assert all(held_out)
    assert not facts & set().union(*held_out)


@pytest.mark.parametrize("kind", ["finetune", "evaluate"])
def test_other_kinds_of_jobs_make_no_sets(paths: dict[str, Path], kind: str) -> None:
    job = JobSpec.model_validate({"kind": kind})

    resolution = prepare_datasets(read_datasets(paths, job, Recorder()), job, Recorder())

    assert set(resolution.rows) == {"forget", "retain"}


def test_a_run_reports_that_the_retain_set_is_overfitted(inputs: RunInputs, tmp_path: Path) -> None:
    listener = Recorder()

    report = run(
        spec(retain={"kind": "nll", "weight": 10.0}, training={"steps": 12}), inputs, tmp_path, listener=listener
    )

    reported = [caveat for caveat in report.caveats if caveat.startswith("The retain set is overfitted")]
    assert len(reported) == 1
    assert reported[0].removesuffix(".") in [event["message"] for event in listener.of("warning")]
    assert {result.outcome for result in report.criteria if result.criterion.set == "retain"} == {"passed"}
    assert {result.outcome for result in report.criteria if result.criterion.set == "retain_held_out"} == {"failed"}


@pytest.mark.parametrize(
    ("num_rows", "fraction", "words"),
    [(7, 0.2, "Only 2 retain rows were held out"), (4, 0.2, "give 50 or more"), (7, 0, "data.retain_held_out is 0")],
)
def test_too_few_held_out_rows_are_a_caveat(
    inputs: RunInputs, tmp_path: Path, num_rows: int, fraction: float, words: str
) -> None:
    sets = {**inputs.dataset_paths, "retain": write_rows(tmp_path / "retain", RETAIN[:num_rows])}
    few_steps = spec(data={"retain_held_out": fraction}, training={"steps": 1})

    report = run(few_steps, RunInputs(model=inputs.model, dataset_paths=sets), tmp_path / "out")

    assert sum(words in caveat for caveat in report.caveats) == 1


def test_held_out_rows_that_are_trained_on_are_a_caveat(inputs: RunInputs, tmp_path: Path) -> None:
    sets = {**inputs.dataset_paths, "retain_held_out": write_rows(tmp_path / "held", RETAIN[:3])}

    report = run(spec(training={"steps": 1}), RunInputs(model=inputs.model, dataset_paths=sets), tmp_path / "out")

    assert any("3 rows of the retain_held_out set are in the retain set too" in caveat for caveat in report.caveats)
    assert report.verdict != "passed"


def test_only_unlearning_holds_rows_out() -> None:
    job = JobSpec.model_validate({"kind": "evaluate", "data": {"retain_held_out": 0.1}})

    assert [problem.place for problem in find_spec_problems(job, {"retain"})] == ["data.retain_held_out"]


def test_a_log_of_another_seed_may_have_other_rows_of_made_sets(
    inputs: RunInputs, taught_model_dir: Path, tmp_path: Path
) -> None:
    few_steps = {"training": {"steps": 1}, "criteria": []}
    compared = replace(inputs, compared_models={"retrained": str(taught_model_dir)})
    run(spec(**few_steps, seed=1), compared, tmp_path / "log")

    report = run(
        spec(**few_steps), replace(inputs, retrained_log_path=tmp_path / "log/logs/retrained.json"), tmp_path / "out"
    )

    assert report.models["retrained"].sets["forget"]["probability"].value is not None
    assert report.retrained is not None
    matches = report.retrained.matches
    assert matches["forget"].num_common == 3
    assert matches["general"].num_common < matches["general"].num_rows == 16
