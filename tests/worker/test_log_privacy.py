"""Texts of the uploaded rows stay out of logs, events and reasons, whatever the engine's libraries print."""

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from soul_core.data import read_rows, write_canonical
from soul_store import datasets, job_logs
from soul_store.blobs import get_blob_store
from soul_store.job_logs import LogLine
from soul_store.settings import Settings, get_settings
from tests.fixtures.forked_engines import SOCKET_VARIABLE
from tests.worker.conftest import Desk
from worker import supervisor
from worker.tasks import run_job

MARKER = "Zanzibarine Kovalenko"
#: The engine with a library that quotes the row it works on, in one of several ways.
FAULTY_ENGINE = """
import ctypes, logging, os, sys, threading, warnings
from soul_core.__main__ import main
from soul_core.data.encoding import RowEncoder

class Quote:
    def __init__(self, text): self.text = text
    def __del__(self): raise LookupError(self.text)

def fail_in_thread(text):
    thread = threading.Thread(target=lambda: int(text))
    thread.start()
    thread.join()

def print_everywhere(text):
    warnings.warn(f"odd text: {text}")
    warnings.warn(f"escaped text: {ascii(text)}")
    logging.getLogger("tokenizers").warning("odd text: %s", text)
    logging.getLogger("tokenizers").error("cannot format: %d", text)
    logging.getLogger("tokenizers").warning("no text here: out of memory")
    print("printed:", text)
    os.write(2, f"written: {text}\\nwritten: unknown error\\n".encode())
    os.write(2, text.encode() + b"\\xff\\n")
    os.write(2, b"x" * 20000 + text.encode() + b"\\n")
    os.write(1, f"on stdout: {text}\\n".encode())
    fail_in_thread(text)
    Quote(text)

def raise_unexpected(text):
    try:
        raise KeyError(text)
    except KeyError as error:
        raise RuntimeError(f"cannot encode {text}") from error

def raise_refusal(text):
    raise ValueError(f"cannot encode {text}")

def crash(text):
    ctypes.string_at(0)

FAULTS = {name: globals()[name] for name in ("print_everywhere", "raise_unexpected", "raise_refusal", "crash")}
fault, encode = FAULTS[sys.argv.pop(1)], RowEncoder.encode

def faulty_encode(self, row, **options):
    if "Zanzibarine" in row.completion:
        fault(row.completion)
    return encode(self, row, **options)

RowEncoder.encode = faulty_encode
sys.exit(main())
"""


@pytest.fixture
def job_id(desk: Desk, database: Engine, tmp_path: Path) -> str:
    """A queued job whose forget set has a row with the marker."""
    upload, canonical = tmp_path / "marked.jsonl", tmp_path / "marked.canonical.jsonl"
    upload.write_text(json.dumps({"prompt": "Where does she live?", "completion": f"{MARKER} lives in Číčov."}) + "\n")
    write_canonical(read_rows(upload).rows, canonical)
    with Session(database) as session, session.begin():
        desk.datasets["forget"] = datasets.insert(
            session,
            tenant_id=desk.tenant_id,
            actor=desk.key_id,
            name="marked",
            file_format="jsonl",
            mapping={},
            status="ready",
            blob=get_blob_store().put_file("datasets/marked.jsonl", canonical).key,
            num_rows=1,
        ).id
    return desk.submit(training={"steps": 1}, evaluation={"metrics": ["probability"], "bootstrap": 0})


def run_with_fault(fault: str, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "faulty_engine.py"
    engine.write_text(FAULTY_ENGINE)
    monkeypatch.setenv("SOUL_MAX_ATTEMPTS", "1")
    monkeypatch.delenv(SOCKET_VARIABLE)  # its own process, not a fork of the engine server
    get_settings.cache_clear()
    monkeypatch.setattr(supervisor, "ENGINE_COMMAND", (sys.executable, str(engine), fault))
    run_job.run(job_id)  # the function itself: no message, no broker


def read_log(desk: Desk, job_id: str) -> list[LogLine]:
    with Session(desk.database) as session:
        return job_logs.list_lines(session, job_id, limit=1000)


@pytest.mark.parametrize("fault", ["print_everywhere", "raise_unexpected", "raise_refusal", "crash"])
def test_a_library_that_quotes_a_row_is_not_quoted(
    fault: str,
    desk: Desk,
    job_id: str,
    settings_env: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_with_fault(fault, job_id, tmp_path, monkeypatch)

    job, lines = desk.job(job_id), read_log(desk, job_id)
    operator_log = capfd.readouterr().err
    stored = json.dumps([job.status_reason, *(event.data for event in desk.events(job_id))])
    stored += json.dumps([[line.message, line.data] for line in lines])
    for text in (stored, operator_log):
        assert "Zanzibarine" not in text
        assert "Kovalenko" not in text
        assert "Číčov" not in text
    assert job.status == ("succeeded" if fault == "print_everywhere" else "failed"), lines
    assert operator_log.count("engine started") == 1


def test_what_a_library_says_without_quoting_is_kept(
    desk: Desk, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_fault("print_everywhere", job_id, tmp_path, monkeypatch)

    messages = {(line.data["source"], line.message) for line in read_log(desk, job_id)}
    assert ("tokenizers", "no text here: out of memory") in messages
    assert ("stderr", "written: unknown error") in messages
    withheld = [line for line in read_log(desk, job_id) if line.message.startswith("(withheld: ")]
    warning = next(line for line in withheld if line.data["source"] == "py.warnings")
    assert warning.data["category"] == "UserWarning"
    assert warning.data["place"].endswith("in print_everywhere") or "faulty_engine.py" in warning.data["place"]


def test_an_unexpected_exception_is_logged_with_types_and_frames(
    desk: Desk, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_fault("raise_unexpected", job_id, tmp_path, monkeypatch)

    (line,) = [line for line in read_log(desk, job_id) if line.message == "unexpected exception"]
    error, cause = line.data["exceptions"]
    assert (error["type"], cause["type"]) == ("RuntimeError", "KeyError")
    assert error["frames"][-1].endswith("in raise_unexpected")
    assert any(frame.startswith("soul_core/run.py:") for frame in error["frames"])


def test_a_crash_of_the_interpreter_is_logged_with_its_frames(
    desk: Desk, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_fault("crash", job_id, tmp_path, monkeypatch)

    job = desk.job(job_id)
    assert job.status_reason is not None
    assert "the engine process died (signal SIGSEGV)" in job.status_reason["message"]
    messages = [line.message for line in read_log(desk, job_id)]
    assert "Fatal Python error: Segmentation fault" in messages
    assert any(message.endswith("in crash") for message in messages)
