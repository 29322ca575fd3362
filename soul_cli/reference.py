"""`python -m soul_cli.reference` prints docs/reference/cli.md; with `--check FILE` it checks that a copy is current.

The page holds the `--help` text of every command, at a fixed width.
"""

import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from soul_cli.main import app
from soul_core.generated_file import print_or_check

WIDTH = 100
INTRODUCTION = """\
# Command line

This page is generated from `soul --help` and `soul COMMAND --help`: `make openapi` writes it, `make docs` checks it.
`pip install 'soul-unlearning[client]'` installs the commands that need only a server. `serve`, `demo`, `verify-export`
and `tofu` need more packages, and print the command that installs them. Exit codes are listed under [soul](#soul).
"""


def list_contexts(context: typer.Context) -> Iterator[typer.Context]:
    """Yield the context of a command and of all its subcommands, in the order of the help."""
    yield context
    if isinstance(context.command, TyperGroup):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from list_contexts(make_context(command, name, context))


def make_context(command: Any, name: str, parent: typer.Context | None = None) -> typer.Context:
    """Return a context whose help has a fixed width, whatever the terminal."""
    return typer.Context(command, parent=parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)


def render_reference() -> str:
    """Return the page as it is committed."""
    contexts = list(list_contexts(make_context(get_command(app), "soul")))
    index = ["| command | purpose |", "|---|---|"]
    sections = []
    for context in contexts:
        path = context.command_path
        summary = context.command.get_short_help_str(limit=WIDTH)
        index.append(f"| [`{path}`](#{path.replace(' ', '-')}) | {summary} |")
        sections.append(f"## {path}\n\n```text\n{context.command.get_help(context).rstrip()}\n```")
    return "\n\n".join([INTRODUCTION.rstrip(), "\n".join(index), *sections]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print or check the file; return the exit code."""
    return print_or_check("soul_cli.reference", __doc__, render_reference, arguments)


if __name__ == "__main__":
    sys.exit(main())
