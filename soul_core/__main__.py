"""`python -m soul_core SPEC.json --model M --forget F --retain R --out OUT`: one run, without any service.

The worker starts the same command with `--events` and reads one JSON event per line. Exit codes: `errors.ExitCode`.
"""

import argparse
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast, get_args

import structlog
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from soul_core import tracing
from soul_core.console import ConsoleListener, format_result_table
from soul_core.errors import BadSpec, EngineError, ExitCode
from soul_core.events import JsonLinesListener, StopRequest
from soul_core.log_config import LogFormat, configure_engine_logging, configure_logging, redirect_library_loggers
from soul_core.log_records import LogLevel
from soul_core.parent_death import die_with_parent
from soul_core.pipeline.state import LOCK_NAME
from soul_core.spec import FORGET, GENERAL, HOLDOUT, RETAIN, TRAIN, JobSpec
from soul_core.spec.terms import SET_NAME_PATTERN

log = structlog.stdlib.get_logger("soul_core")

#: How long to wait for the lock: an engine that was just killed may still hold it.
_LOCK_TIMEOUT_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code: an `ExitCode`."""
    args = _make_parser().parse_args(arguments)
    if args.parent_pid:
        die_with_parent(args.parent_pid)
    events = _reserve_stdout() if args.events else None
    _configure_logging(events)
    listener = JsonLinesListener(events) if events else ConsoleListener(sys.stderr)
    _handle_signals(listener)
    ids = {"job_id": args.job_id, "attempt": args.attempt, "request_id": args.request_id}
    tracing.start_tracing("soul-engine")
    with bound_contextvars(**{name: value for name, value in ids.items() if value is not None}):
        try:
            with tracing.span("engine", parent=os.environ.get(tracing.PARENT_VARIABLE)):
                _run(args, listener)
        except EngineError as error:
            log.info("the run ended early", code=error.code, exc_info=error)
            listener.emit("failed", code=error.code, message=error.message, details=list(error.details))
            return error.exit_code
        except Exception as error:
            log.exception("unexpected exception")
            message = f"{type(error).__name__} inside the engine; its log has the stack frames"
            listener.emit("failed", code="crash", message=message)
            return ExitCode.CRASH
    return ExitCode.OK


def _run(args: argparse.Namespace, listener: "JsonLinesListener | ConsoleListener") -> None:
    spec = _read_spec(args.spec)
    dataset_paths = _collect_datasets(args)
    state = args.state or args.out / ".state"
    with _lock_state(state):
        # torch takes seconds to import: the checks above report errors first
        from soul_core.environment import get_environment, get_versions
        from soul_core.run import RunInputs, run

        redirect_library_loggers()
        log.info("libraries loaded", versions=get_versions(), environment=get_environment())
        inputs = RunInputs(
            model=args.model,
            revision=args.revision,
            model_name=args.model_name,
            dataset_paths=dataset_paths,
            compared_models=_parse_pairs(args.compare, "--compare", "MODEL"),
            retrained_log_path=args.retrained_log,
            model_digest=args.model_digest,
            compared_digests=_parse_pairs(args.compare_digest, "--compare-digest", "DIGEST"),
            dataset_sha256s=_parse_pairs(args.dataset_sha256, "--dataset-sha256", "SHA256"),
            retrained_log_sha256=args.retrained_log_sha256,
            row_key_path=args.row_key,
            job_id=args.job_id,
            cache_dir=args.cache,
        )
        report = run(spec, inputs, args.out, state_folder=state, listener=listener)
    if isinstance(listener, ConsoleListener):
        print(format_result_table(report, args.out))  # noqa: T201


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soul_core",
        description="Unlearn data from a language model (or fine-tune or evaluate it), measure before and after, and "
        "write checkpoint and report.",
        epilog="example: python -m soul_core spec.json --model ./llama --forget forget.jsonl --retain retain.jsonl "
        "--out out/   (spec.json may be as short as {}). Exit codes: 0 done, 1 crash, 2 the request is wrong, 3 the "
        "run failed, 4 interrupted (the same command resumes it), 5 cancelled.",
    )
    parser.add_argument("spec", type=Path, help="the job spec, JSON")
    parser.add_argument("--model", required=True, help="folder with safetensors, GGUF file, or hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--model-name", help="name of the model in the report")
    parser.add_argument(
        "--model-digest",
        metavar="DIGEST",
        help="digest of the registered model (model.digest of a report); a model with other files is an error before "
        "the run starts",
    )
    parser.add_argument("--forget", type=Path, help="forget set: rows to unlearn (jsonl, csv, parquet, text)")
    parser.add_argument("--retain", type=Path, help="retain set: rows whose knowledge to preserve")
    parser.add_argument("--train", type=Path, help="rows to learn (kind finetune)")
    parser.add_argument(
        "--holdout", type=Path, help="rows like the forget set's that no model saw, for membership inference"
    )
    parser.add_argument("--general", type=Path, help="plain text, for perplexity")
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=PATH", help="additional set to measure on"
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="model to compare with: retrained=FOLDER for one retrained without the forget set; a hub id may end in "
        "@REVISION",
    )
    parser.add_argument(
        "--compare-digest", action="append", default=[], metavar="NAME=DIGEST", help="digest of a model to compare with"
    )
    parser.add_argument(
        "--retrained-log",
        type=Path,
        help="log that replaces the retrained model: logs/retrained.json or report.json of an earlier run, or a TOFU "
        "log; rows are matched by content if the log has their digests, and a log of other rows is an error",
    )
    parser.add_argument("--retrained-log-sha256", metavar="SHA256", help="sha256 of the log as it was written")
    parser.add_argument(
        "--dataset-sha256",
        action="append",
        default=[],
        metavar="NAME=SHA256",
        help="sha256 of a data set's file as it was uploaded; any other file is an error",
    )
    parser.add_argument(
        "--row-key",
        type=Path,
        metavar="FILE",
        help="file with the private key (64 hex digits) of row digests; default: your own key in the cache folder, "
        "which reports and logs contain, so that anyone with the rows can match them",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--state", type=Path, help="folder of files that a resumed run needs (default: OUT/.state)")
    parser.add_argument("--cache", type=Path, help="folder of downloaded and converted models (default: ~/.cache/soul)")
    parser.add_argument("--events", action="store_true", help="write one JSON event per line to stdout")
    parser.add_argument("--job-id", help="id of the job in the report and in the log")
    parser.add_argument("--attempt", type=int, help="number of the job's attempt in the log")
    parser.add_argument("--request-id", help="id of the request that submitted the job, in the log")
    parser.add_argument("--parent-pid", type=int, help="exit when this process exits (Linux)")
    return parser


def _read_spec(path: Path) -> JobSpec:
    try:
        return JobSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadSpec(f"cannot read the spec {path}: {error.strerror}") from error
    except ValidationError as error:
        details = tuple(
            ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
            for problem in error.errors(include_url=False)
        )
        raise BadSpec(f"the spec {path} is invalid", details=details) from error


def _collect_datasets(args: argparse.Namespace) -> dict[str, Path]:
    sets = {
        FORGET: args.forget,
        RETAIN: args.retain,
        GENERAL: args.general,
        TRAIN: args.train,
        HOLDOUT: args.holdout,
    }
    paths = {name: path for name, path in sets.items() if path is not None}
    for name, path in _parse_pairs(args.dataset, "--dataset", "PATH").items():
        if name in paths:
            raise BadSpec(f"--dataset {name}={path}: the {name} set is given already")
        paths[name] = Path(path)
    return paths


def _parse_pairs(texts: list[str], option: str, value_name: str) -> dict[str, str]:
    """Return NAME -> value of an option that may be given several times. Raises BadSpec."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not value or not re.fullmatch(SET_NAME_PATTERN, name):
            raise BadSpec(f"{option} {text}: write NAME={value_name}, the name in lower-case letters, digits and _")
        if name in pairs:
            raise BadSpec(f"{option} {text}: {name} is given already")
        pairs[name] = value
    return pairs


def _handle_signals(listener: "JsonLinesListener | ConsoleListener") -> None:
    def interrupt(number: int, _: Any) -> None:
        listener.request_stop(StopRequest.INTERRUPT)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGUSR1, lambda *_: listener.request_stop(StopRequest.CANCEL))


def _configure_logging(events: TextIO | None) -> None:
    """Log to the supervisor, with the events, or to stderr, where the default shows only warnings and errors."""
    level = os.environ.get("SOUL_LOG_LEVEL", "info" if events else "warning").lower()
    output_format = os.environ.get("SOUL_LOG_FORMAT", "console").lower()
    if level not in get_args(LogLevel) or output_format not in get_args(LogFormat):
        sys.exit(
            f"SOUL_LOG_LEVEL={level} SOUL_LOG_FORMAT={output_format}: the level must be one of "
            f"{', '.join(get_args(LogLevel))}, the format one of {', '.join(get_args(LogFormat))}"
        )
    if events is not None:
        configure_engine_logging(events, level="debug" if level == "debug" else "info")  # less would say nothing
    else:
        configure_logging(level=level, output_format=cast("LogFormat", output_format))


def _reserve_stdout() -> TextIO:
    """Return stdout as it is now, for events only, and redirect everything else that is printed to stderr."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


@contextmanager
def _lock_state(state: Path) -> Iterator[None]:
    """Hold the lock of a state folder, which two engines would corrupt. The kernel releases it in any case."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK_NAME).open("w")
    except OSError as error:
        raise EngineError(f"cannot write to {state}: {error.strerror}") from error
    with lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"another engine is running in {state}; wait for it, or name another --state"
                    ) from error
                time.sleep(0.1)
        yield


if __name__ == "__main__":
    exit_code = main()
    tracing.stop_tracing()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # everything is written; unloading torch takes seconds, which a draining worker may not have
