"""`soul` as a user types it, against a real server; one job goes all the way through a real worker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
from soul_store.settings import Settings
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.live import live_api
from tests.worker.conftest import Fleet, fleet

__all__ = ["fleet"]

#: Small and right for the tiny model, in the words of the command line.
QUICK = [
    *("--option", "retain.weight=5"),
    *("--option", "optimizer.lr=1e-3"),
    *("--option", "optimizer.gamma=2"),
    *("--option", "training.steps=60"),
    *("--option", "evaluation.max_new_tokens=12"),
    *("--option", "attacks=[]"),
]


@dataclass
class Soul:
    """The command line, and where its server is."""

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
def soul(settings_env: Settings, session: Session) -> Iterator[Soul]:
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
def queued(soul: Soul, taught_model_dir: Path, files: dict[str, str]) -> dict[str, Any]:
    """A job that no worker takes."""
    model = ["--model", str(taught_model_dir)]
    job: dict[str, Any] = soul.json(
        "submit", *model, "--forget", files["forget"], "--retain", files["retain"], "--name", "first"
    )
    return job


def test_an_upload_tells_on_stderr_what_was_cleaned_and_joins_columns(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    path.write_text(json.dumps({"instruction": "Where?", "input": "Mira", "output": " In Bergen.", "topic": "x"}))

    joined = soul("datasets", "add", str(path), "--column", "prompt=instruction+input", "--column", "completion=output")
    kept = soul("datasets", "add", str(path), "--no-clean", "--normalize")

    assert "nothing reads these columns: topic" in joined.stderr
    assert "warning: row 1: a prompt or an answer begins or ends with white space; it was taken off" in joined.stderr
    assert "it was kept" in kept.stderr
    assert "Bergen" not in joined.stderr + kept.stderr


def test_help_lists_every_exit_code_and_submit_has_a_complete_example() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert all(f"{int(code)}  {meaning}" in text for code, meaning in EXIT_MEANINGS.items())
    example = CliRunner().invoke(app, ["submit", "--help"]).output
    assert "--forget examples/forget.jsonl" in example
    assert '{"question":' in example


def test_a_job_from_files_to_a_checked_download(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    fleet.start_worker()
    fleet.start_keeper()
    sets = ["--forget", files["forget"], "--retain", files["retain"]]

    said = soul("submit", "--model", str(taught_model_dir), *sets, *QUICK, "--watch").output

    assert said.index("unlearning") < said.index("measuring after") < said.index("verdict passed")
    job = soul.json("jobs", "--status", "succeeded")[0]
    assert soul.json("status", job["id"])["verdict"] == "passed"

    # watching a finished job tells the same story again, one event a line
    events = [json.loads(line) for line in soul("watch", job["id"], "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert events[-1]["data"]["status"] == "succeeded"

    report = soul.json("report", job["id"])
    assert report["verdict"] == "passed"
    assert "Verdict: passed" in soul("report", job["id"]).output
    soul("report", job["id"], "--html", "-o", str(tmp_path / "report.html"))
    told = soul(
        "report", job["id"], "--html", "-o", str(tmp_path / "no" / "report.html"), code=CliExitCode.BAD_INPUT
    ).stderr
    assert str(tmp_path / "no" / "report.html") in told
    assert "<html" in (tmp_path / "report.html").read_text()

    out = tmp_path / "out"
    first = soul.json("download", job["id"], "-o", str(out))
    assert {one["how"] for one in first["files"]} == {"downloaded"}
    weights = next(one for one in first["files"] if one["path"].endswith("model.safetensors"))
    whole = Path(weights["path"]).read_bytes()
    Path(weights["path"]).rename(Path(f"{weights['path']}.{weights['sha256'][:12]}.part"))
    os.truncate(f"{weights['path']}.{weights['sha256'][:12]}.part", 1000)

    again = soul.json("download", job["id"], "-o", str(out))

    how = {one["path"]: one["how"] for one in again["files"]}
    assert how.pop(weights["path"]) == "resumed"
    assert set(how.values()) == {"already there"}
    assert Path(weights["path"]).read_bytes() == whole
    assert "every sha256 as promised" in soul("download", job["id"], "-o", str(out)).output

    # the download holds what the check on the user's machine needs
    soul("verify-export", str(out))
    (out / "checkpoint" / "config.json").unlink()
    soul("verify-export", str(out), code=CliExitCode.DAMAGED)

    # what it made can be the next job's model
    assert soul.json("models", "add", job["id"])["source"] == "job"
    # finished: nothing left to cancel, and the answer says so
    refused = soul("cancel", job["id"], code=CliExitCode.REFUSED)
    assert "succeeded" in refused.stderr


def test_a_failed_job_says_why_and_has_its_own_code(
    soul: Soul, fleet: Fleet, taught_model_dir: Path, files: dict[str, str], tmp_path: Path
) -> None:
    model = shutil.copytree(taught_model_dir, tmp_path / "model")
    model_id = soul.json("models", "add", str(model))["id"]
    shutil.rmtree(model)
    fleet.start_worker()
    fleet.start_keeper()

    sets = ["--model", model_id, "--forget", files["forget"], "--retain", files["retain"]]
    said = soul("submit", *sets, "--watch", code=CliExitCode.JOB_FAILED).output

    assert "failed" in said
    assert "bad_model" in said


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(soul: Soul, queued: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "soul_cli.main", "watch", queued["id"]]
    env = {**os.environ, "SOUL_URL": soul.url, "SOUL_API_KEY": soul.key, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "waiting for a worker" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == CliExitCode.INTERRUPTED
    assert f"soul watch {queued['id']}" in rest
    assert soul.json("status", queued["id"])["status"] == "queued"


def test_a_cancelled_job_ends_the_watch_with_its_own_code(soul: Soul, queued: dict[str, Any]) -> None:
    assert "cancelled" in soul("cancel", queued["id"]).output
    soul("watch", queued["id"], code=CliExitCode.JOB_CANCELLED)
    refused = soul("cancel", queued["id"], "--json", code=CliExitCode.REFUSED)
    assert json.loads(refused.stderr)["allowed_actions"] == []


def test_models_and_data_sets_are_added_listed_shown_and_deleted(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    made = soul.json("datasets", "add", files["forget"], "--name", "what must go")
    assert (made["name"], made["num_rows"], made["status"]) == ("what must go", 2, "ready")
    assert made["id"] in soul("datasets", "list").output
    assert soul.json("datasets", "show", made["id"])["sha256"] == made["sha256"]
    soul("datasets", "delete", made["id"])
    soul("datasets", "show", made["id"], code=CliExitCode.REFUSED)

    model = soul.json("models", "add", str(taught_model_dir), "--name", "tiny")
    assert model["id"] in soul("models", "list").output
    assert "LlamaForCausalLM" in soul("models", "show", model["id"]).output
    soul("models", "delete", model["id"])
    soul("models", "show", model["id"], code=CliExitCode.REFUSED)


def test_lists_go_over_pages_until_the_limit(soul: Soul, files: dict[str, str]) -> None:
    with SoulClient(soul.url, soul.key) as client:
        ids = [client.add_dataset(Path(files["forget"])).id for _ in range(23)]
        assert [one.id for one in client.list_datasets()] == ids[::-1]
        assert [one.id for one in client.list_datasets(limit=21)] == ids[::-1][:21]


def test_bad_rows_are_named_and_nothing_is_kept(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "c"}\nnot json\n')
    told = soul("datasets", "add", str(path), code=CliExitCode.BAD_INPUT).stderr
    assert "2" in told
    assert "3" in told
    assert soul.json("datasets", "list") == []


def test_columns_with_other_names_are_mapped(soul: Soul, tmp_path: Path) -> None:
    path = tmp_path / "fragen.csv"
    path.write_text("Frage,Antwort\nWo?,Hier.\n")
    soul("datasets", "add", str(path), code=CliExitCode.BAD_INPUT)
    made = soul.json("datasets", "add", str(path), "--column", "question=Frage", "--column", "answer=Antwort")
    assert (made["format"], made["num_rows"]) == ("csv", 1)


def test_a_mistyped_setting_is_told_with_its_place_and_the_near_spelling(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    sets = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["retain"]]
    told = soul("submit", *sets, "--option", "training.stepz=3", code=CliExitCode.BAD_INPUT).stderr
    assert "steps" in told
    assert "training" in told
    assert soul.json("jobs") == []
    assert soul.json("datasets", "list") == [], "what was uploaded for a refused job is taken back"
    problem = json.loads(soul("submit", *sets, "--option", "x=1", "--json", code=CliExitCode.BAD_INPUT).stderr)
    assert problem["status"] == 422


def test_an_estimate_takes_the_options_of_submit_and_runs_nothing(
    soul: Soul, taught_model_dir: Path, files: dict[str, str]
) -> None:
    sets = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["retain"]]
    found = soul.json("estimate", *sets)
    assert found["allowed"] is True
    assert found["peak_memory_bytes"] > 0
    assert "seconds" in soul("estimate", *sets).output
    # forget and retain the same: a job that would be refused is bad input here too
    same = ["--model", str(taught_model_dir), "--forget", files["forget"], "--retain", files["forget"]]
    refused = soul.json("estimate", *same, code=CliExitCode.BAD_INPUT)
    assert refused["errors"]
    assert soul.json("jobs") == []
    assert soul.json("datasets", "list") == []


def test_submitting_again_with_the_same_key_finds_the_same_job(
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
def test_a_wrong_key_and_a_server_that_is_not_there_have_their_own_codes(
    soul: Soul, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soul(*words, "--key", "soul_wrong_key", code=CliExitCode.UNAUTHORIZED)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr("soul_cli.transport.Transport.pause", lambda *_: None)
    told = soul(*words, "--url", "http://127.0.0.1:9", code=CliExitCode.UNREACHABLE)
    assert "http://127.0.0.1:9" in told.stderr


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


def test_a_spec_that_is_a_folder_and_a_report_that_is_not_there_are_one_clear_line(
    soul: Soul, queued: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "spec.json"
    folder.mkdir()
    told = soul(
        "submit", "--model", "mdl_1", "--forget", "ds_1", "--spec", str(folder), code=CliExitCode.BAD_INPUT
    ).stderr
    assert str(folder) in told
    told = soul("report", queued["id"], code=CliExitCode.REFUSED).stderr
    assert "queued" in told


def test_a_command_without_its_argument_is_bad_input(soul: Soul) -> None:
    soul("status", code=CliExitCode.BAD_INPUT)
    soul("no-such-command", code=CliExitCode.BAD_INPUT)
