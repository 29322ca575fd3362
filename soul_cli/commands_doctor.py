"""`soul doctor`: says what of this installation works, and what to do about the rest."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from soul_cli.connection import get_data_folder
from soul_cli.doctor.check import CheckStatus, Diagnosis, run_checks
from soul_cli.doctor.machine import list_machine_checks
from soul_cli.doctor.service import list_service_checks
from soul_cli.errors import CliExitCode
from soul_cli.options import JsonOption
from soul_cli.output import console, print_json

_STYLES = {
    CheckStatus.OK: "green",
    CheckStatus.WARNING: "yellow",
    CheckStatus.ERROR: "bold red",
    CheckStatus.SKIPPED: "dim",
}


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data folder of `soul serve`.", show_default="SOUL_DATA or ./soul-data"),
    ] = None,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=1, max=65535, help="Port that `soul serve` would use.")
    ] = 8000,
    as_json: JsonOption = False,
) -> None:
    """Check this installation: machine, libraries, servers, workers. Each finding has a remedy.

    Checks the service that the environment names (SOUL_DATABASE_URL and others), else the local `soul serve`. Changes
    nothing. Ends with exit code 10 if a check found an error; warnings and skipped checks do not count.
    """
    folder = get_data_folder(data).absolute()
    results = run_checks([*list_machine_checks(folder), *list_service_checks(folder, port)])
    is_ok = not any(result.status is CheckStatus.ERROR for result in results)
    if as_json:
        print_json({"ok": is_ok, "checks": [asdict(result) for result in results]})
    else:
        _print_results(results)
    if not is_ok:
        raise typer.Exit(int(CliExitCode.NOT_WORKING))


def _print_results(results: list[Diagnosis]) -> None:
    width = max(len(result.name) for result in results)
    for result in results:
        style = _STYLES[result.status]
        console.print(
            f"[{style}]{result.status:<7}[/]  {result.name:<{width}}  {escape(result.detail)}", soft_wrap=True
        )
        if result.remedy:
            console.print(f"{'':<7}  {'':<{width}}  to do: {escape(result.remedy)}", soft_wrap=True)
