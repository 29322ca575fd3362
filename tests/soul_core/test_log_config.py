"""Records carry ids, obey level and format, and show exceptions as each audience needs them."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

SERVICE = """
import logging, structlog
from structlog.contextvars import bound_contextvars
from soul_core.log_config import configure_logging
configure_logging(level={level!r}, output_format={output_format!r})
with bound_contextvars(job_id="job_1", attempt=2, request_id="req_1"):
    structlog.stdlib.get_logger("worker.tasks").info("ours", number=7)
    logging.getLogger("celery.worker").warning("a library's %s", "record")
    logging.getLogger("celery.worker").debug("details")
    secret = "local variables stay out"
    try:
        raise ValueError("message")
    except ValueError:
        structlog.stdlib.get_logger("worker.tasks").exception("failed")
"""

ENGINE = """
import logging, sys, threading, warnings, structlog
from structlog.contextvars import bound_contextvars
from soul_core.log_config import configure_engine_logging, redirect_library_loggers
library = logging.getLogger("library")
library.addHandler(logging.StreamHandler(sys.stderr))
library.propagate = False
configure_engine_logging(sys.stdout, level="info")
redirect_library_loggers()
log = structlog.stdlib.get_logger("soul_core")
with bound_contextvars(job_id="job_1", attempt=2):
    log.info("ours", number=7)
    library.warning("a library's record")
    warnings.warn("a warning")
    logging.getLogger("library").warning("wrong %d", "arguments")
    try:
        try:
            raise KeyError("inner message")
        except KeyError as error:
            raise ValueError("outer message") from error
    except ValueError:
        log.exception("failed")
thread = threading.Thread(target=lambda: int("thread message"))
thread.start()
thread.join()
def recurse(): recurse()
recurse()
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def engine() -> subprocess.CompletedProcess[str]:
    return run(ENGINE)


@pytest.fixture(scope="module")
def engine_records(engine: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in engine.stdout.splitlines()]


def test_json_records_have_ids_level_logger_and_traceback() -> None:
    records = [json.loads(line) for line in run(SERVICE.format(level="info", output_format="json")).stderr.splitlines()]

    assert [record["message"] for record in records] == ["ours", "a library's record", "failed"]
    for record in records:
        assert (record["job_id"], record["attempt"], record["request_id"]) == ("job_1", 2, "req_1")
    assert records[0]["number"] == 7
    assert (records[1]["level"], records[1]["logger"]) == ("warning", "celery.worker")
    assert records[2]["exception"].endswith("ValueError: message")


def test_console_records_are_lines_with_the_same_fields() -> None:
    output = run(SERVICE.format(level="debug", output_format="console")).stderr

    assert "[info     ] ours [worker.tasks] attempt=2 job_id=job_1 number=7 request_id=req_1" in output
    assert "[debug    ] details [celery.worker]" in output
    assert "ValueError: message" in output
    assert "\x1b" not in output, "stderr is not a terminal"


@pytest.mark.parametrize("output_format", ["console", "json"])
def test_local_variables_are_never_logged(output_format: str) -> None:
    assert "local variables stay out" not in run(SERVICE.format(level="debug", output_format=output_format)).stderr


def test_the_level_applies_to_our_loggers_and_to_libraries() -> None:
    records = run(SERVICE.format(level="error", output_format="json")).stderr.splitlines()

    assert [json.loads(record)["message"] for record in records] == ["failed"]


def test_engine_records_say_whether_a_library_wrote_them(engine_records: list[dict[str, Any]]) -> None:
    assert [(record["logger"], record["message"], record["is_from_library"]) for record in engine_records[:3]] == [
        ("soul_core", "ours", False),
        ("library", "a library's record", True),
        ("py.warnings", "a warning", True),
    ]
    assert engine_records[0]["fields"] == {"attempt": 2, "job_id": "job_1", "number": 7}
    assert engine_records[2]["fields"]["category"] == "UserWarning"


def test_engine_exceptions_are_types_and_frames_without_messages(
    engine: subprocess.CompletedProcess[str], engine_records: list[dict[str, Any]]
) -> None:
    failed, in_thread, uncaught = engine_records[3:]

    assert failed["fields"]["exceptions"] == [
        {"type": "ValueError", "frames": ["<string>:20 in <module>"]},
        {"type": "KeyError", "frames": ["<string>:18 in <module>"]},
    ]
    assert in_thread["fields"]["exceptions"][0]["type"] == "ValueError"
    assert uncaught["fields"]["exceptions"][0]["type"] == "RecursionError"
    frames = uncaught["fields"]["exceptions"][0]["frames"]
    assert len(frames) == 51
    assert frames[10].endswith("frames left out)")
    assert "message" not in json.dumps([record["fields"] for record in engine_records])
    assert engine.stderr == ""


def test_logging_is_configured_again_without_a_second_handler() -> None:
    program = SERVICE.format(level="info", output_format="json")

    twice = program.replace("with bound", 'configure_logging(level="info", output_format="json")\nwith bound', 1)

    assert len(run(twice).stderr.splitlines()) == 3
    assert logging.getLogger("soul_core").propagate
