"""`python -m api.openapi` prints the OpenAPI description; with `--check FILE` it compares it with a snapshot."""

import argparse
import json
import sys
from pathlib import Path

from api.main import create_app


def render_openapi() -> str:
    """Return the OpenAPI description in the form of the committed snapshot."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Print or compare; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m api.openapi", description=__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with this snapshot instead of printing")
    args = parser.parse_args()
    if args.check is None:
        sys.stdout.write(render_openapi())
        return 0
    if args.check.exists() and args.check.read_text(encoding="utf-8") == render_openapi():
        return 0
    sys.stderr.write(f"{args.check} is not current: run `make openapi` and review what changes for users\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
