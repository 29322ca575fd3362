"""Options that many commands share, typer's way, and the group that turns errors into exit codes."""

from contextvars import ContextVar
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soul_cli.client import SoulClient
from soul_cli.errors import EXIT_MEANINGS, BadInput, CliExitCode, SoulError
from soul_cli.output import print_error

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The server; else SOUL_URL, else the one `soul serve` runs here.", show_default=False),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", help="The API key; else SOUL_API_KEY, else the local server's.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, job_...", show_default=False)]

_json_wanted: ContextVar[bool] = ContextVar("json_wanted", default=False)


class SoulGroup(TyperGroup):
    """A command group whose commands end with the exit codes of `soul --help`."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; print a SoulError where errors belong and leave with its code."""
        token = _json_wanted.set(False)
        try:
            return super().invoke(ctx)
        except SoulError as error:
            print_error(error, as_json=_json_wanted.get())
            raise typer.Exit(int(error.exit_code)) from error
        except OSError as error:
            if error.filename is None:
                raise
            # A file or folder the user named: one line, no traceback.
            print_error(BadInput(f"{error.filename}: {error.strerror}"), as_json=_json_wanted.get())
            raise typer.Exit(int(CliExitCode.BAD_INPUT)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(int(CliExitCode.INTERRUPTED)) from error
        finally:
            _json_wanted.reset(token)


def connect(url: str | None, key: str | None, *, as_json: bool = False) -> SoulClient:
    """Open a client, and remember for the error path how the user wants to be answered."""
    _json_wanted.set(as_json)
    return SoulClient(url, key)


def format_exit_code_help() -> str:
    """Return the table of exit codes for `soul --help`."""
    return "\n".join(f"{int(code):>3}  {meaning}" for code, meaning in EXIT_MEANINGS.items())
