"""`python -m api.openapi` prints the OpenAPI description; with `--check FILE` it compares it with a snapshot."""

import json
import sys

from api.main import create_app
from soul_core.generated_file import print_or_check


def render_openapi() -> str:
    """Return the OpenAPI description in the form of the committed snapshot."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print or check the file; return the exit code."""
    return print_or_check("api.openapi", __doc__, render_openapi, arguments)


if __name__ == "__main__":
    sys.exit(main())
