"""`python -m soul_core.report.schema` prints the JSON schema of report.json; `--check FILE` says if a copy is current.

Torch-free. The copy is docs/report.schema.json.
"""

import json
import sys
from typing import Any

from soul_core.generated_file import print_or_check
from soul_core.report import SCHEMA_VERSION, Report


def make_schema() -> dict[str, Any]:
    """Return the schema of what is written (not of what would be read)."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:soul:report:{SCHEMA_VERSION}"}
    return head | Report.model_json_schema(mode="serialization")


def render_schema() -> str:
    """Return the schema as it is committed."""
    return json.dumps(make_schema(), indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print or check the file; return the exit code."""
    return print_or_check("soul_core.report.schema", __doc__, render_schema, arguments)


if __name__ == "__main__":
    sys.exit(main())
