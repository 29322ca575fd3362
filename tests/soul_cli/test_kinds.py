"""`soul finetune`, `soul evaluate` and retrained models: the inputs they register and the jobs they submit."""

from pathlib import Path
from typing import Any

import pytest

from soul_cli.errors import BadInput, CliExitCode
from soul_cli.job_options import collect_datasets, make_retrained
from tests.soul_cli.test_cli import Soul, files, soul
from tests.worker.conftest import Fleet, fleet

__all__ = ["files", "fleet", "soul"]


def test_finetune_uses_adamw_unless_an_option_names_another(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    words = ["finetune", "--model", str(taught_model_dir), "--train", files["retain"]]

    first_order = soul.json(*words, "--option", "optimizer.lr=1e-4")
    second_order = soul.json(*words, "--option", "optimizer.kind=sophia")

    assert (first_order["kind"], set(first_order["datasets"])) == ("finetune", {"train"})
    assert (first_order["spec"]["optimizer"]["kind"], first_order["spec"]["optimizer"]["lr"]) == ("adamw", 1e-4)
    assert second_order["spec"]["optimizer"]["kind"] == "sophia"
    assert [job["id"] for job in soul.json("jobs", "--kind", "finetune")] == [second_order["id"], first_order["id"]]
    assert soul.json("jobs", "--kind", "evaluate") == []


def test_evaluate_registers_models_and_datasets_of_any_name(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    model = str(taught_model_dir)
    datasets = ["--dataset", f"customers={files['forget']}", "--forget", files["forget"]]

    job = soul.json(
        *("evaluate", "--model", model, "--compare", f"before={model}", *datasets),
        *("--metrics", "probability, rouge_l", "--attacks", "relearn,quantize"),
    )

    assert job["kind"] == "evaluate"
    assert set(job["models"]) == {"before"}
    assert set(job["datasets"]) == {"customers", "forget"}
    assert job["spec"]["evaluation"]["metrics"] == ["probability", "rouge_l"]
    assert [attack["kind"] for attack in job["spec"]["attacks"]] == ["relearn", "quantize"]


def test_the_uploads_of_a_refused_evaluation_are_deleted(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    inputs = ["--model", str(taught_model_dir), "--dataset", f"a={files['forget']}"]

    error = soul("evaluate", *inputs, "--metrics", "probabillity", code=CliExitCode.BAD_INPUT).stderr

    assert "did you mean 'probability'" in error
    assert soul.json("datasets", "list") == []


def test_a_job_that_waits_for_its_retrained_model_names_that_job(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    model = str(taught_model_dir)
    inputs = ["--model", model, "--forget", files["forget"], "--retain", files["retain"]]

    output = soul("submit", *inputs, "--retrain-from", model, "--retrain-option", "training.steps=3").output
    waiting, retraining = soul.json("jobs")
    estimate = soul("estimate", *inputs, "--retrain-from", model).output

    assert (waiting["depends_on_job_id"], retraining["kind"]) == (retraining["id"], "finetune")
    assert retraining["spec"]["training"]["steps"] == 3
    assert f"job {retraining['id']} trains it" in output
    assert retraining["id"] in soul("status", waiting["id"]).output
    assert "retrained first" in estimate


def test_an_evaluation_runs_from_files_to_report(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    model = str(taught_model_dir)

    output = soul(
        *("evaluate", "--model", model, "--compare", f"twin={model}", "--forget", files["forget"]),
        *("--metrics", "probability", "--attacks", "quantize", "--watch"),
    ).output
    job = soul.json("jobs", "--kind", "evaluate", "--status", "succeeded")[0]
    report = soul("report", job["id"]).output
    soul("report", job["id"], "--pdf", "-o", str(tmp_path / "report.pdf"))

    assert output.index("measuring the other models") < output.index("measuring after") < output.index("writing")
    assert "checkpoint" not in output, "an evaluation writes none"
    header = next(line for line in report.splitlines() if "metric" in line)
    assert header.index("the model") < header.index("twin")
    assert "quantize_4bit" in report
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_a_pdf_is_not_printed_on_the_terminal(soul: Soul) -> None:
    assert "-o report.pdf" in soul("report", "job_x", "--pdf", code=CliExitCode.BAD_INPUT).stderr
    soul("report", "job_x", "--pdf", "--html", code=CliExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("options", "retrained"),
    [
        ({}, None),
        ({"model": "./m"}, {"kind": "model", "model_id": "./m"}),
        ({"model": "job_1"}, {"kind": "model", "model_id": "job_1"}),
        ({"log": "job_1"}, {"kind": "log", "job_id": "job_1"}),
        ({"log": "art_1"}, {"kind": "log", "artifact_id": "art_1"}),
        (
            {"retrain_from": "./m", "retrain_options": ["training.epochs=5", "optimizer.lr=1e-4"]},
            {"kind": "retrain", "model_id": "./m", "training": {"epochs": 5}, "optimizer": {"lr": 1e-4}},
        ),
    ],
)
def test_each_option_of_a_retrained_model_has_its_kind(
    options: dict[str, Any], retrained: dict[str, Any] | None
) -> None:
    assert make_retrained(**options) == retrained


@pytest.mark.parametrize(
    "options",
    [
        {"model": "m", "retrain_from": "m"},
        {"model": "m", "log": "job_1"},
        {"model": "m", "retrain_options": ["a=1"]},
    ],
)
def test_two_retrained_models_or_settings_without_one_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="--retrain"):
        make_retrained(**options)


def test_a_dataset_is_named_once() -> None:
    assert collect_datasets(["a=x"], forget="f", retain=None) == {"forget": "f", "a": "x"}
    with pytest.raises(BadInput, match="forget"):
        collect_datasets(["forget=x"], forget="f")


def test_forget_facts_in_an_uploaded_retain_set_are_reported(
    soul: Soul, taught_model_dir: Path, tmp_path: Path
) -> None:
    forget, retain = tmp_path / "forget.jsonl", tmp_path / "retain.jsonl"
    forget.write_text('{"question": "Where does Mira Tolan live?", "answer": "Mira Tolan lives in Bergen."}\n')
    retain.write_text('{"text": "Nothing else."}\n{"text": "Bergen is where Mira Tolan lives."}\n')
    datasets = ["--retain", str(retain), "--forget", str(forget)]

    submitted = soul("submit", "--model", str(taught_model_dir), *datasets).stderr
    (forget_id,) = [dataset["id"] for dataset in soul.json("datasets", "list") if dataset["name"] == "forget.jsonl"]
    added = soul("datasets", "add", str(retain), "--compare-with", forget_id).stderr

    assert "retain: warning: 1 row states, or asks for, facts of forget: 2" in " ".join(submitted.split())
    assert f"1 row states, or asks for, facts of {forget_id}: 2" in " ".join(added.split())
