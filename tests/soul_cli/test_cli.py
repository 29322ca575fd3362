"""The `soul` command against a real server; one job runs on a real worker from submission to download."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from api.services.keys import ensure_admin_key
from soul_cli.client import SoulClient
from soul_cli.errors import EXIT_MEANINGS, CliExitCode
from soul_cli.main import app
from soul_store import workers
from soul_store.placement import WorkerDevice
from soul_store.settings import Settings
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.live import live_api
from tests.worker.conftest import Fleet, fleet

__all__ = ["fleet"]

CRITERIA = [
    {"set": "forget", "metric": "probability", "at_most": 0.25, "relative_to_base": True},
    {"set": "retain", "metric": "probability", "at_least": 0.8, "relative_to_base": True},
]
#: Settings that suit the tiny model.
QUICK = [
    *("--option", "retain.weight=5"),
    *("--option", "optimizer.lr=1e-3"),
    *("--option", "optimizer.gamma=2"),
    *("--option", "training.steps=60"),
    *("--option", "evaluation.max_new_tokens=12"),
    *("--option", "attacks=[]"),
    # eight rows are too few to protect rows that are held out of them, and the tiny model knows no other text
    *("--option", "data.retain_held_out=0"),
    *("--option", "evaluation.general_text=[]"),
    *("--option", f"criteria={json.dumps(CRITERIA)}"),
]


@dataclass
class Soul:
    """The command line with its server's URL and key."""

    url: str
    key: str

    def __call__(self, *words: str, code: CliExitCode = CliExitCode.OK) -> Result:
        env = {"SOUL_URL": self.url, "SOUL_API_KEY": self.key, "COLUMNS": "160"}
        result = CliRunner().invoke(app, list(words), env=env)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *words: str, code: CliExitCode = CliExitCode.OK) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture
def soul(settings_env: Settings, session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Soul]:
    # The API runs in this process: its log of requests would be a part of the command's stderr.
    monkeypatch.setenv("SOUL_LOG_LEVEL", "warning")
    key = ensure_admin_key(session)
    assert key is not None
    session.commit()
    with live_api() as port:
        yield Soul(f"http://127.0.0.1:{port}", key)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    countries = list(COUNTRIES)
    return {
        "forget": str(write_rows(tmp_path / "forget.jsonl", countries[:2])),
        "retain": str(write_rows(tmp_path / "retain.jsonl", countries[2:])),
    }


@pytest.fixture
def queued_job(soul: Soul, taught_model_dir: Path, files: dict[str, str]) -> dict[str, Any]:
    """A job that no worker runs."""
    model = ["--model", str(taught_model_dir)]
    job: dict[str, Any] = soul.json(
        "submit", *model, "--forget", files["forget"], "--retain", files["retain"], "--name", "first"
    )
    return job


def test_an_upload_warns_of_cleaned_rows_on_stderr_and_joins_columns(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps({"instruction": "Where?", "input": "Mira", "output": " In Bergen.", "topic": "x"}))

    joined = soul("datasets", "add", str(path), "--column", "prompt=instruction+input", "--column", "completion=output")
    uncleaned = soul("datasets", "add", str(path), "--no-clean", "--normalize")

    problem = "warning: row 1: a prompt or an answer begins or ends with white space"
    assert "warning: these columns are not read: topic; a mapping can join one to the prompt" in joined.stderr
    assert f"{problem}; it was removed (clean: false keeps it)" in joined.stderr
    assert f"{problem}; it is learned and scored unchanged" in uncleaned.stderr
    assert "Bergen" not in joined.stderr + uncleaned.stderr


def test_help_lists_every_exit_code_and_submit_has_a_complete_example() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert all(f"{int(code)}  {meaning}" in text for code, meaning in EXIT_MEANINGS.items())
    example = CliRunner().invoke(app, ["submit", "--help"]).output
    assert "--forget examples/forget.jsonl" in example
    assert '{"question":' in example


def test_a_model_and_a_forget_set_alone_are_a_complete_job(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str]
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()

    job = soul.json("submit", "--model", str(taught_model_dir), "--forget", files["forget"])

    with SoulClient(soul.url, soul.key) as client:
        list(client.stream_events(job["id"]))
    assert soul.json("status", job["id"])["status"] == "succeeded", fleet.log("worker")
    report = soul.json("report", job["id"])
    assert report["spec"]["retain"]["kind"] == "kl"
    assert sum(report["generated_retain"]["num_rows"].values()) > 20


def test_a_job_runs_from_files_to_a_verified_download(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    fleet.start_worker()
    fleet.start_maintenance()
    datasets = ["--forget", files["forget"], "--retain", files["retain"]]

    output = soul("submit", "--model", str(taught_model_dir), *datasets, *QUICK, "--watch").output

    assert output.index("unlearning") < output.index("measuring after") < output.index("verdict passed")
    job = soul.json("jobs", "--status", "succeeded")[0]
    assert soul.json("status", job["id"])["verdict"] == "passed"

    # A finished job can be watched as well: one event per line.
    events = [json.loads(line) for line in soul("watch", job["id"], "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert events[-1]["data"]["status"] == "succeeded"

    report = soul.json("report", job["id"])
    assert report["verdict"] == "passed"
    assert "Verdict: passed" in soul("report", job["id"]).output
    soul("report", job["id"], "--html", "-o", str(tmp_path / "report.html"))
    unwritable = str(tmp_path / "no" / "report.html")
    error = soul("report", job["id"], "--html", "-o", unwritable, code=CliExitCode.BAD_INPUT).stderr
    assert unwritable in error
    assert "<html" in (tmp_path / "report.html").read_text()

    out = tmp_path / "out"
    first = soul.json("download", job["id"], "-o", str(out))
    assert {file["how"] for file in first["files"]} == {"downloaded"}
    weights = next(file for file in first["files"] if file["path"].endswith("model.safetensors"))
    content = Path(weights["path"]).read_bytes()
    Path(weights["path"]).rename(Path(f"{weights['path']}.{weights['sha256'][:12]}.part"))
    os.truncate(f"{weights['path']}.{weights['sha256'][:12]}.part", 1000)

    second = soul.json("download", job["id"], "-o", str(out))

    how = {file["path"]: file["how"] for file in second["files"]}
    assert how.pop(weights["path"]) == "resumed"
    assert set(how.values()) == {"already there"}
    assert Path(weights["path"]).read_bytes() == content
    assert "every sha256 as in the manifest" in soul("download", job["id"], "-o", str(out)).output

    # The downloaded folder can be verified on the user's machine.
    soul("verify-export", str(out))
    (out / "checkpoint" / "config.json").unlink()
    soul("verify-export", str(out), code=CliExitCode.DAMAGED)

    # The job's output can be the next job's model.
    assert soul.json("models", "add", job["id"])["source"] == "job"
    # A finished job cannot be cancelled.
    refused = soul("cancel", job["id"], code=CliExitCode.REFUSED)
    assert "succeeded" in refused.stderr


def test_a_failed_job_prints_its_reason_and_has_its_own_code(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    model = shutil.copytree(taught_model_dir, tmp_path / "model")
    model_id = soul.json("models", "add", str(model))["id"]
    shutil.rmtree(model)
    fleet.start_worker()
    fleet.start_maintenance()

    inputs = ["--model", model_id, "--forget", files["forget"], "--retain", files["retain"]]
    output = soul("submit", *inputs, "--watch", code=CliExitCode.JOB_FAILED).output

    assert "failed" in output
    assert "bad_model" in output


def test_ctrl_c_leaves_the_job_running_and_names_the_watch_command(soul: Soul, queued_job: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "soul_cli.main", "watch", queued_job["id"]]
    env = {**os.environ, "SOUL_URL": soul.url, "SOUL_API_KEY": soul.key, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "waiting for a worker" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == CliExitCode.INTERRUPTED
    assert f"soul watch {queued_job['id']}" in rest
    assert soul.json("status", queued_job["id"])["status"] == "queued"


def test_a_cancelled_job_ends_the_watch_with_its_own_code(soul: Soul, queued_job: dict[str, Any]) -> None:
    assert "cancelled" in soul("cancel", queued_job["id"]).output
    soul("watch", queued_job["id"], code=CliExitCode.JOB_CANCELLED)
    refused = soul("cancel", queued_job["id"], "--json", code=CliExitCode.REFUSED)
    assert json.loads(refused.stderr)["allowed_actions"] == ["retry"]


def test_a_job_is_paused_resumed_and_submitted_again(soul: Soul, queued_job: dict[str, Any]) -> None:
    job_id = queued_job["id"]

    assert f"{job_id} paused" in soul("pause", job_id).output
    assert soul.json("status", job_id)["allowed_actions"] == ["cancel", "resume"]
    assert f"{job_id} queued" in soul("resume", job_id).output
    soul("retry", job_id, code=CliExitCode.REFUSED)
    soul("cancel", job_id)
    retry = soul.json("retry", job_id, "--priority", "high", "--deadline", "2030-01-31T18:00+01:00")

    assert (retry["retry_of_job_id"], retry["priority"]) == (job_id, "high")
    assert retry["deadline"] == "2030-01-31T17:00:00Z"
    assert "no worker is running" in soul("status", retry["id"]).output


def test_without_a_worker_the_list_of_workers_says_what_that_means(soul: Soul, session: Session) -> None:
    assert "no worker is running: jobs wait until one starts" in soul("workers").output
    workers.record(session, name="host:1", device=WorkerDevice("cuda", "H100", memory_bytes=80 << 30), load=0.5)
    session.commit()

    assert [word in soul("workers").output for word in ("host:1", "idle", "H100", "80.0 GiB")] == [True] * 4
    assert soul.json("workers")[0]["accelerator"] == "cuda"


def test_models_and_datasets_are_added_listed_shown_and_deleted(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    dataset = soul.json("datasets", "add", files["forget"], "--name", "customers")
    assert (dataset["name"], dataset["num_rows"], dataset["status"]) == ("customers", 2, "ready")
    assert dataset["id"] in soul("datasets", "list").output
    assert soul.json("datasets", "show", dataset["id"])["sha256"] == dataset["sha256"]
    soul("datasets", "delete", dataset["id"])
    soul("datasets", "show", dataset["id"], code=CliExitCode.REFUSED)

    model = soul.json("models", "add", str(taught_model_dir), "--name", "tiny")
    assert model["id"] in soul("models", "list").output
    assert "LlamaForCausalLM" in soul("models", "show", model["id"]).output
    soul("models", "delete", model["id"])
    soul("models", "show", model["id"], code=CliExitCode.REFUSED)


def test_lists_read_all_pages_up_to_the_limit(soul: Soul, files: dict[str, str]) -> None:
    with SoulClient(soul.url, soul.key) as client:
        ids = [client.add_dataset(Path(files["forget"])).id for _ in range(23)]
        assert [dataset.id for dataset in client.list_datasets()] == ids[::-1]
        assert [dataset.id for dataset in client.list_datasets(limit=21)] == ids[::-1][:21]


def test_bad_rows_are_named_and_the_dataset_is_deleted(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "c"}\nnot json\n')
    error = soul("datasets", "add", str(path), code=CliExitCode.BAD_INPUT).stderr
    assert "2" in error
    assert "3" in error
    assert soul.json("datasets", "list") == []


def test_columns_with_other_names_are_mapped(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "fragen.csv"
    path.write_text("Frage,Antwort\nWo?,Hier.\n")
    soul("datasets", "add", str(path), code=CliExitCode.BAD_INPUT)
    dataset = soul.json("datasets", "add", str(path), "--column", "question=Frage", "--column", "answer=Antwort")
    assert (dataset["format"], dataset["num_rows"]) == ("csv", 1)


def test_a_mistyped_setting_is_reported_with_its_path_and_a_suggestion(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    inputs = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["retain"]]
    error = soul("submit", *inputs, "--option", "training.stepz=3", code=CliExitCode.BAD_INPUT).stderr
    assert "steps" in error
    assert "training" in error
    assert soul.json("jobs") == []
    assert soul.json("datasets", "list") == [], "the uploads of a refused job are deleted"
    problem = json.loads(soul("submit", *inputs, "--option", "x=1", "--json", code=CliExitCode.BAD_INPUT).stderr)
    assert problem["status"] == 422


def test_an_estimate_takes_the_options_of_submit_and_runs_nothing(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    inputs = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["retain"]]
    estimate = soul.json("estimate", *inputs)
    assert estimate["allowed"] is True
    assert estimate["peak_memory_bytes"] > 0
    output = soul("estimate", *inputs).output
    assert output.count("probably between") == 2
    assert "because no job has finished yet" in output
    # A job that would be refused (the forget set as retain set) is bad input.
    same = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["forget"]]
    refused = soul.json("estimate", *same, code=CliExitCode.BAD_INPUT)
    assert refused["errors"]
    assert soul.json("jobs") == []
    assert soul.json("datasets", "list") == []


def test_submitting_again_with_the_same_key_returns_the_same_job(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    model = soul.json("models", "add", str(taught_model_dir))["id"]
    forget, retain = (soul.json("datasets", "add", files[name])["id"] for name in ("forget", "retain"))
    words = ["submit", "--model", model, "--forget", forget, "--retain", retain, "--idempotency-key", "case-4711"]
    assert soul.json(*words)["id"] == soul.json(*words)["id"]
    assert len(soul.json("jobs")) == 1


def test_methods_are_listed_with_their_descriptions(soul: Soul) -> None:
    text = soul("methods").output
    assert all(word in text for word in ("npo", "sophia", "keyword_recall", "gnb", "forget05", "soul_core.tasks"))
    assert soul.json("methods")["spec"]["defaults"]["training"]["steps"] > 0


@pytest.mark.parametrize("words", [["jobs"], ["jobs", "--json"]])
def test_a_wrong_key_and_an_unreachable_server_have_their_own_codes(
    soul: Soul, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soul(*words, "--key", "soul_wrong_key", code=CliExitCode.UNAUTHORIZED)
    monkeypatch.setattr("soul_cli.transport.Transport.pause", lambda *_: None)
    result = soul(*words, "--url", "http://127.0.0.1:9", code=CliExitCode.UNREACHABLE)
    assert "http://127.0.0.1:9" in result.stderr


def test_typing_mistakes_cost_no_request(soul: Soul, files: dict[str, str], tmp_path: Path) -> None:
    model = ["submit", "--model", "mdl_01J"]
    for words in (
        [*model, "--forget", str(tmp_path / "nothing.jsonl")],
        [*model, "--forget", files["forget"], "--spec", str(tmp_path / "nothing.json")],
        [*model, "--forget", files["forget"], "--option", "steps"],
        ["submit", "--model", "./nowhere", "--forget", files["forget"]],
        ["datasets", "add", str(tmp_path / "nothing.jsonl")],
        ["models", "add", "./nowhere"],
    ):
        soul(*words, code=CliExitCode.BAD_INPUT)
    assert soul.json("datasets", "list") == []


def test_a_spec_that_is_a_folder_and_a_missing_report_have_one_line_errors(
    soul: Soul, queued_job: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "spec.json"
    folder.mkdir()
    inputs = ["--model", "mdl_1", "--forget", "ds_1", "--spec", str(folder)]
    assert str(folder) in soul("submit", *inputs, code=CliExitCode.BAD_INPUT).stderr
    assert "queued" in soul("report", queued_job["id"], code=CliExitCode.REFUSED).stderr


def test_a_command_without_its_argument_is_bad_input(soul: Soul) -> None:
    soul("status", code=CliExitCode.BAD_INPUT)
    soul("no-such-command", code=CliExitCode.BAD_INPUT)
