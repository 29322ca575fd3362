"""Options that many commands share, and the command group that turns errors into exit codes."""

from contextvars import ContextVar
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soul_cli.client import SoulClient
from soul_cli.errors import EXIT_MEANINGS, BadInput, CliExitCode, SoulError
from soul_cli.output import print_error

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The server; else SOUL_URL, else the local `soul serve`.", show_default=False
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", help="The API key; else SOUL_API_KEY, else the local server's.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, job_...", show_default=False)]

_OWN_PACKAGES = frozenset({"api", "migrations", "soul_cli", "soul_core", "soul_store", "worker"})
_wants_json: ContextVar[bool] = ContextVar("wants_json", default=False)


class SoulGroup(TyperGroup):
    """A command group whose commands exit with the codes of `soul --help`."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; print an error that has an exit code, and exit with it."""
        token = _wants_json.set(False)
        try:
            return super().invoke(ctx)
        except SoulError as error:
            raise _exit_with(error) from error
        except OSError as error:
            if error.filename is None:
                raise
            # A file or a folder that the user named.
            raise _exit_with(BadInput(f"{error.filename}: {error.strerror}")) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if not package or package in _OWN_PACKAGES:
                raise
            problem = f"this command needs {package}: pip install 'soul-unlearning[all]'"
            raise _exit_with(BadInput(problem)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(int(CliExitCode.INTERRUPTED)) from error
        finally:
            _wants_json.reset(token)


def _exit_with(error: SoulError) -> typer.Exit:
    print_error(error, as_json=_wants_json.get())
    return typer.Exit(int(error.exit_code))


def connect(url: str | None, key: str | None, *, as_json: bool = False) -> SoulClient:
    """Open a client; errors of the command are then printed as JSON if `as_json`."""
    _wants_json.set(as_json)
    return SoulClient(url, key)


def format_exit_code_help() -> str:
    """Return the table of exit codes for `soul --help`."""
    return "\n".join(f"{int(code):>3}  {meaning}" for code, meaning in EXIT_MEANINGS.items())
