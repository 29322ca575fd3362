"""`python -m soul_core.report.schema` prints the JSON schema of report.json; `--check FILE` says if a copy is current.

Torch-free. The copy is docs/report.schema.json.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from soul_core.report import SCHEMA_VERSION, Report


def make_schema() -> dict[str, Any]:
    """Return the schema of what is written (not of what would be read)."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:soul:report:{SCHEMA_VERSION}"}
    return head | Report.model_json_schema(mode="serialization")


def render_schema() -> str:
    """Return the schema as it is committed."""
    return json.dumps(make_schema(), indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print or check; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m soul_core.report.schema", description=__doc__)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with this copy instead of printing")
    checked: Path | None = parser.parse_args(arguments).check
    if checked is None:
        sys.stdout.write(render_schema())
        return 0
    if checked.exists() and checked.read_text(encoding="utf-8") == render_schema():
        return 0
    sys.stderr.write(f"{checked} is not current: run `make openapi` and look at what changed for users\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
