"""Reads an upload in a child process with limits: a hostile file can end the child, not the API.

`python -m api.services.upload_reading` reads a request from stdin and writes the validation to stdout, both JSON. It
imports neither the database nor the web framework.
"""

import json
import math
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from soul_core.data import Format, ReadResult, read_rows, validate_rows, write_canonical
from soul_core.errors import BadData
from soul_core.parent_death import die_with_parent

#: Groups of duplicates that a validation lists, and rows that a warning lists; both count all of them.
_MAX_LISTED = 1000
#: Exit code of a child whose memory ran out.
_OUT_OF_MEMORY = 9


@dataclass(frozen=True)
class UploadRequest:
    """What to read, how, and where to write the canonical rows."""

    path: str
    name: str
    canonical: str
    format: str | None = None
    mapping: dict[str, str] = field(default_factory=dict)
    clean: bool = True
    normalize: bool = False
    max_expanded_bytes: int = 8 << 30


def read_in_child(request: UploadRequest, *, memory_bytes: int, seconds: float) -> tuple[dict[str, Any], str | None]:
    """Return the validation of a file and the digest of its rows; None for the digest if it is not usable.

    A file that exceeds a limit is not usable, and its validation names the limit.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(asdict(request)).encode(),
            stdout=subprocess.PIPE,
            timeout=seconds,
            check=False,
            preexec_fn=partial(_limit, memory_bytes, seconds),
            env={**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
    except subprocess.TimeoutExpired:
        problem = f"reading the file took more than {seconds:g} seconds; split it into smaller data sets"
        return {"usable": False, "error": problem}, None
    if child.returncode == 0:
        answer = json.loads(child.stdout)
        return answer["validation"], answer["content_sha256"]
    if child.returncode < 0 and child.returncode != -9 and not child.stdout:
        problem = "the file cannot be read: its reader crashed; is the file damaged?"
        return {"usable": False, "error": problem}, None
    limit = f"{memory_bytes >> 20} MiB"
    problem = f"reading the file takes more than {limit} of memory; split it, or write smaller row groups and cells"
    return {"usable": False, "error": problem}, None


def _limit(memory_bytes: int, seconds: float) -> None:
    """Limit the child: memory, processor time, and no core dumps with the user's rows."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    cpu_seconds = math.ceil(seconds) + 5  # for a child whose parent no longer waits
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_file(request: UploadRequest) -> tuple[dict[str, Any], str | None]:
    """Read a file in this process; see `read_in_child`."""
    try:
        reading = read_rows(
            Path(request.path),
            format=cast("Format | None", request.format),
            mapping=request.mapping or None,
            name=request.name,
            clean=request.clean,
            normalize=request.normalize,
            max_expanded_bytes=request.max_expanded_bytes,
        )
    except BadData as error:
        return {"usable": False, "error": "; ".join([error.message, *error.details])}, None
    validation = _describe_validation(reading)
    return validation, write_canonical(reading.rows, Path(request.canonical)) if validation["usable"] else None


def _describe_validation(reading: ReadResult) -> dict[str, Any]:
    """Return the validation of a reading as the row stores it."""
    validation = validate_rows(reading)
    return {
        "usable": validation.is_usable,
        "format": validation.format,
        "num_rows": validation.num_rows,
        "columns": list(validation.columns),
        "used_columns": list(validation.used_columns),
        "problems": [
            {"row": problem.number, "column": problem.column, "detail": problem.detail}
            for problem in validation.problems
        ],
        "duplicates": [list(group) for group in validation.duplicates[:_MAX_LISTED]],
        "warnings": [
            {
                "kind": warning.kind,
                "detail": warning.detail,
                "rows": list(warning.rows[:_MAX_LISTED]),
                "num_rows": len(warning.rows),
            }
            for warning in validation.warnings
        ],
    }


def main() -> int:
    """Serve one request; return the exit code."""
    die_with_parent(os.getppid())
    try:
        validation, content_sha256 = read_file(UploadRequest(**json.load(sys.stdin)))
        answer = json.dumps({"validation": validation, "content_sha256": content_sha256})
    except MemoryError:
        return _OUT_OF_MEMORY
    sys.stdout.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
