"""`python -m soul_core.conflicts FORGET OTHER`: prints one JSON object per pair of a row of OTHER and a forget row.

The API runs it as a separate process, so that a comparison takes no memory of the process that serves all requests.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from soul_core.conflicts import find_conflicts
from soul_core.data import read_rows
from soul_core.errors import BadData


def main(arguments: list[str] | None = None) -> int:
    """Compare and print; return the exit code: 0 whatever was found, or 2 if a set cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.conflicts", description="Find rows of a data set that state facts of a forget set."
    )
    parser.add_argument("forget", type=Path, help="the forget set (jsonl, csv, parquet, text)")
    parser.add_argument("other", type=Path, help="the set that should not hold its facts")
    args = parser.parse_args(arguments)
    try:
        forget, other = (read_rows(path).require_valid_rows() for path in (args.forget, args.other))
    except (BadData, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for conflict in find_conflicts(forget, other):
        sys.stdout.write(json.dumps(asdict(conflict)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
