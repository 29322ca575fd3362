"""The engine as a process: exit codes, events, signals, one engine per state folder, no engine without its parent."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soul_core.__main__ import main
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, write_rows

STEPS = 250
SPEC = {
    "optimizer": {"kind": "sophia", "lr": 1e-4},
    "training": {"steps": STEPS, "checkpoint_every": 40, "stop_at": None},
    "evaluation": {"max_new_tokens": 8, "bootstrap": 50, "num_answer_samples": 2},
    "attacks": [],
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def arguments(taught_model_dir: Path, tmp_path: Path) -> list[str]:
    """Arguments of a run of some seconds with its output in tmp_path/out."""
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC))
    forget = write_rows(tmp_path / "forget.jsonl", list(COUNTRIES)[:4])
    retain = write_rows(tmp_path / "retain.jsonl", list(COUNTRIES)[4:])
    sets = ["--forget", str(forget), "--retain", str(retain)]
    return [str(spec), "--model", str(taught_model_dir), *sets, "--out", str(tmp_path / "out")]


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "soul_core", *arguments, "--events"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, process_group=0
    )


def read_until_step(process: subprocess.Popen[str], step: int) -> list[dict[str, Any]]:
    events = []
    assert process.stdout is not None
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["kind"] == "metrics" and events[-1]["data"]["step"] >= step:
            return events
    pytest.fail(f"the engine ended before step {step}: {process.communicate()[1]}")


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, [json.loads(line) for line in output.splitlines()]


def test_a_terminated_then_killed_engine_resumes_to_bit_identical_weights(
    arguments: list[str], taught_model_dir: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    sets = {"forget": tmp_path / "forget.jsonl", "retain": tmp_path / "retain.jsonl"}
    run(
        JobSpec.model_validate(SPEC),
        RunInputs(model=str(taught_model_dir), dataset_paths=sets),
        tmp_path / "undisturbed",
    )

    process = start(arguments)
    read_until_step(process, 20)
    process.send_signal(signal.SIGTERM)
    code, events = finish(process)
    assert code == 4
    assert events[-1]["kind"] == "failed"
    assert events[-1]["data"]["code"] == "interrupted"
    assert not (tmp_path / "out" / "manifest.json").exists()

    process = start(arguments)
    events = read_until_step(process, 90)
    assert next(event["data"]["step"] for event in events if event["kind"] == "metrics") > 20
    process.kill()
    process.communicate()

    process = start(arguments)
    code, events = finish(process)
    assert code == 0
    assert next(event["data"]["step"] for event in events if event["kind"] == "metrics") in {81, 121, 161, 201}
    assert events[-1]["kind"] == "finished"
    ours = load_file(tmp_path / "out" / "checkpoint" / "model.safetensors")
    theirs = load_file(tmp_path / "undisturbed" / "checkpoint" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["run"]["curves"]["loss"]) == STEPS
    assert len(report["run"]["resumed_at_steps"]) == 2


def test_a_cancel_exits_5_and_leaves_no_file(arguments: list[str], tmp_path: Path) -> None:
    process = start(arguments)
    read_until_step(process, 5)
    process.send_signal(signal.SIGUSR1)
    code, events = finish(process)
    assert code == 5
    assert events[-1]["data"]["code"] == "cancelled"
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["lock"]


def test_the_engine_exits_with_its_parent(arguments: list[str]) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "parent = ['--parent-pid', str(os.getpid())]\n"
        "child = subprocess.Popen([sys.executable, '-m', 'soul_core', *sys.argv[1:], *parent])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_engine_without_its_parent_does_not_start(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--parent-pid", "1" if os.getppid() != 1 else "2"])
    assert not (tmp_path / "out").exists()


def test_a_second_engine_on_the_same_state_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / ".state").mkdir(parents=True)
    with (tmp_path / "out" / ".state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(arguments) == 3
    assert "another engine is running" in capsys.readouterr().err


def test_a_mistyped_key_is_one_line_with_the_similar_key(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").write_text('{"training": {"stepps": 3}}')
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert "bad_spec: the spec" in output.err
    assert "training: unknown key 'stepps'; did you mean 'steps'?" in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seed": -1}', None])
def test_an_invalid_spec_is_refused(
    arguments: list[str], tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").unlink()
    if content is not None:
        (tmp_path / "spec.json").write_text(content)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("bad_spec: ")


@pytest.mark.parametrize("text", ["nameonly", "=x", "Upper=x", "forget=x"])
def test_an_invalid_dataset_argument_is_refused(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--dataset", text]) == 2
    assert f"--dataset {text}: " in capsys.readouterr().err


def test_without_events_progress_and_a_table_are_printed(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {**SPEC, "training": {"steps": 2}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert main([*arguments, "--dataset", f"more={tmp_path / 'retain.jsonl'}", "--model-name", "tiny"]) == 0
    output = capsys.readouterr()
    assert "Unlearning" in output.err
    assert "step 2 of 2" in output.err
    assert output.out.splitlines()[0].startswith(("Passed", "Failed", "Inconclusive"))
    assert "\nmore " in output.out
    assert '"source": "tiny"' in (tmp_path / "out" / "report.json").read_text()


def test_a_crash_exits_1_and_its_event_contains_no_data(
    arguments: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("Paris is secret")

    monkeypatch.setattr("soul_core.run.run", fail)
    assert main(arguments) == 1
    output = capfd.readouterr()
    assert "crash: ZeroDivisionError inside the engine" in output.err
    assert "Traceback" in output.err


def test_arguments_are_read_before_anything_slow_is_imported() -> None:
    code = (
        "import sys, soul_core.__main__; print({'torch', 'transformers', 'scipy', 'matplotlib'} & sys.modules.keys())"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert output.stdout == "set()\n"
