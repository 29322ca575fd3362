"""The command line of the generated files: print one, or check that its committed copy is current."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def print_or_check(module: str, description: str | None, render: Callable[[], str], arguments: list[str] | None) -> int:
    """Print the file; with `--check FILE`, compare it with a copy instead.

    Args:
        module: Name of the module that `python -m` runs.
        description: Text of `--help`.
        render: Returns the complete file.
        arguments: Command line; None: that of the process.

    Returns:
        The exit code: 1 if the copy is missing or differs.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with this copy instead of printing")
    copy: Path | None = parser.parse_args(arguments).check
    text = render()
    if copy is None:
        sys.stdout.write(text)
        return 0
    if copy.exists() and copy.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{copy} is not current: run `make openapi` and review what changes for users\n")
    return 1
