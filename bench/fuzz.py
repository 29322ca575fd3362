"""Requests made from the OpenAPI description, valid and invalid, against the real API: `python -m bench.fuzz`.

Schemathesis makes them, with ids of real resources and links between operations. It fails on a 5xx, on an undeclared
status, and on a response that is not of its schema. Whether the schema refuses exactly what the server refuses is not
checked.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.load import add_jobs
from bench.served_api import ServedApi, serve_api

#: Checks of Schemathesis that concern this API. Others ask for conventions that it does not follow: an invalid path
#: parameter is 404 and not 422, for example.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main(arguments: list[str] | None = None) -> int:
    """Run Schemathesis; return 1 if it found a failure."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="about this many requests (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soul-fuzz-") as folder, serve_api(Path(folder)) as served:
        figures = run(served, Path(folder), num_cases=args.cases, seed=args.seed)
    if args.json:
        print(json.dumps({"seed": args.seed, **figures}))
    return 1 if figures["failures"] else 0


def run(served: ServedApi, folder: Path, *, num_cases: int, seed: int) -> dict[str, Any]:
    """Return the number of requests and of distinct failures; the report of Schemathesis is printed."""
    job_id = add_jobs(1)[0]
    config = folder / "schemathesis.toml"
    config.write_text(f'[parameters]\njob_id = "{job_id}"\nmodel_id = "mdl_load"\nevaluation_id = "{job_id}"\n')
    num_operations = 50
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={config}",
        "run",
        f"http://127.0.0.1:{served.api.port}/openapi.json",
        f"--header=Authorization: Bearer {served.key}",
        f"--checks={CHECKS}",
        f"--max-examples={max(1, num_cases // num_operations // 2)}",
        f"--seed={seed}",
        "--request-timeout=20",
        "--no-color",
        "--exclude-path-regex=/stream$",
        "--exclude-operation-id=revoke_api_key",
    ]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    print(finished.stdout[-20_000:], finished.stderr[-4_000:])
    if finished.returncode not in {0, 1}:
        raise RuntimeError(f"Schemathesis did not run: exit code {finished.returncode}")
    return {
        "requests": _find(r"(\d+) generated", finished.stdout),
        "failures": max(_find(r"(\d+) (?:unique )?failures?", finished.stdout), finished.returncode),
    }


def _find(pattern: str, text: str) -> int:
    numbers = re.findall(pattern, text)
    return int(numbers[-1]) if numbers else 0


if __name__ == "__main__":
    sys.exit(main())
