"""`soul finetune`, `soul evaluate` and references, as typed: what is registered on the way and what is asked for."""

from pathlib import Path
from typing import Any

import pytest

from soul_cli.errors import BadInput, CliExitCode
from soul_cli.job_options import collect_sets, make_reference
from tests.soul_cli.test_cli import Soul, files, soul
from tests.worker.conftest import Fleet, fleet

__all__ = ["files", "fleet", "soul"]


def test_finetune_learns_by_first_order_unless_told_otherwise(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    words = ["finetune", "--model", str(taught_model_dir), "--train", files["retain"]]

    made = soul.json(*words, "--option", "optimizer.lr=1e-4")
    second_order = soul.json(*words, "--option", "optimizer.kind=sophia")

    assert (made["kind"], set(made["datasets"])) == ("finetune", {"train"})
    assert (made["spec"]["optimizer"]["kind"], made["spec"]["optimizer"]["lr"]) == ("adamw", 1e-4)
    assert second_order["spec"]["optimizer"]["kind"] == "sophia"
    assert [job["id"] for job in soul.json("jobs", "--kind", "finetune")] == [second_order["id"], made["id"]]
    assert soul.json("jobs", "--kind", "evaluate") == []


def test_evaluate_registers_models_and_sets_of_any_name(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    model = str(taught_model_dir)
    sets = ["--dataset", f"customers={files['forget']}", "--forget", files["forget"]]

    made = soul.json(
        *("evaluate", "--model", model, "--compare", f"before={model}", *sets),
        *("--metrics", "probability, rouge_l", "--attacks", "relearn,quantize"),
    )

    assert made["kind"] == "evaluate"
    assert set(made["models"]) == {"before"}
    assert set(made["datasets"]) == {"customers", "forget"}
    assert made["spec"]["evaluation"]["metrics"] == ["probability", "rouge_l"]
    assert [attack["kind"] for attack in made["spec"]["attacks"]] == ["relearn", "quantize"]


def test_a_refused_evaluation_takes_its_uploads_back(soul: Soul, taught_model_dir: Path, files: dict[str, str]) -> None:
    words = [
        "evaluate",
        "--model",
        str(taught_model_dir),
        "--dataset",
        f"a={files['forget']}",
        "--metrics",
        "probabillity",
    ]

    told = soul(*words, code=CliExitCode.BAD_INPUT).stderr

    assert "did you mean 'probability'" in told
    assert soul.json("datasets", "list") == []


def test_a_job_that_waits_for_its_reference_says_so(soul: Soul, taught_model_dir: Path, files: dict[str, str]) -> None:
    model = str(taught_model_dir)
    sets = ["--model", model, "--forget", files["forget"], "--retain", files["retain"]]

    told = soul("submit", *sets, "--retrain-from", model, "--retrain-option", "training.steps=3").output
    waiting, retraining = soul.json("jobs")
    estimate = soul("estimate", *sets, "--retrain-from", model).output

    assert (waiting["depends_on_job_id"], retraining["kind"]) == (retraining["id"], "finetune")
    assert retraining["spec"]["training"]["steps"] == 3
    assert f"job {retraining['id']} retrains it" in told
    assert retraining["id"] in soul("status", waiting["id"]).output
    assert "retrained first" in estimate


def test_a_models_audit_from_files_to_report(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    fleet.start_worker()
    fleet.start_keeper()
    model = str(taught_model_dir)

    told = soul(
        *("evaluate", "--model", model, "--compare", f"twin={model}", "--forget", files["forget"]),
        *("--metrics", "probability", "--attacks", "quantize", "--watch"),
    ).output
    job = soul.json("jobs", "--kind", "evaluate", "--status", "succeeded")[0]
    shown = soul("report", job["id"]).output
    soul("report", job["id"], "--pdf", "-o", str(tmp_path / "report.pdf"))

    assert told.index("measuring the models beside it") < told.index("measuring after") < told.index("writing")
    assert "checkpoint" not in told, "an audit makes none"
    header = next(line for line in shown.splitlines() if "metric" in line)
    assert header.index("the model") < header.index("twin")
    assert "quantize_4bit" in shown
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_a_pdf_is_not_for_the_terminal(soul: Soul) -> None:
    assert "-o report.pdf" in soul("report", "job_x", "--pdf", code=CliExitCode.BAD_INPUT).stderr
    soul("report", "job_x", "--pdf", "--html", code=CliExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ((None, None, None, None), None),
        (("./m", None, None, None), {"kind": "model", "model_id": "./m"}),
        (("job_1", None, None, None), {"kind": "model", "model_id": "job_1"}),
        ((None, None, "job_1", None), {"kind": "log", "job_id": "job_1"}),
        ((None, None, "art_1", None), {"kind": "log", "artifact_id": "art_1"}),
        (
            (None, "./m", None, ["training.epochs=5", "optimizer.lr=1e-4"]),
            {"kind": "retrain", "model_id": "./m", "training": {"epochs": 5}, "optimizer": {"lr": 1e-4}},
        ),
    ],
)
def test_a_reference_is_what_was_typed(typed: tuple[Any, Any, Any, Any], meant: dict[str, Any] | None) -> None:
    assert make_reference(*typed) == meant


@pytest.mark.parametrize("typed", [("m", "m", None, None), ("m", None, "job_1", None), ("m", None, None, ["a=1"])])
def test_two_references_or_settings_of_none_are_refused(typed: tuple[Any, Any, Any, Any]) -> None:
    with pytest.raises(BadInput, match="--"):
        make_reference(*typed)


def test_a_set_is_named_once() -> None:
    assert collect_sets(["a=x"], forget="f", retain=None) == {"forget": "f", "a": "x"}
    with pytest.raises(BadInput, match="forget"):
        collect_sets(["forget=x"], forget="f")


def test_forget_facts_in_an_uploaded_retain_set_are_told_while_it_is_submitted(
    soul: Soul, taught_model_dir: Path, tmp_path: Path
) -> None:
    forget, retain = tmp_path / "forget.jsonl", tmp_path / "retain.jsonl"
    forget.write_text('{"question": "Where does Mira Tolan live?", "answer": "Mira Tolan lives in Bergen."}\n')
    retain.write_text('{"text": "Nothing else."}\n{"text": "Bergen is where Mira Tolan lives."}\n')
    sets = ["--retain", str(retain), "--forget", str(forget)]

    told = soul("submit", "--model", str(taught_model_dir), *sets).stderr
    (uploaded,) = [one["id"] for one in soul.json("datasets", "list") if one["name"] == "forget.jsonl"]
    added = soul("datasets", "add", str(retain), "--compare-with", uploaded).stderr

    assert "retain: warning: 1 row states, or asks for, facts of forget: 2" in " ".join(told.split())
    assert f"1 row states, or asks for, facts of {uploaded}: 2" in " ".join(added.split())
