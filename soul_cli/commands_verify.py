"""`soul verify-export`: compares a downloaded model with its measurements, by the engine in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from soul_cli.installation import ENGINE_PACKAGES, require_packages
from soul_cli.options import JsonOption

VERIFY_EXAMPLE = "Example: soul download job_... -o unlearned && soul verify-export unlearned"


def verify_export(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of `soul download`, or the checkpoint or adapter folder in it."),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="Base model of an adapter: a folder or a hub id.", show_default=False
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Type to compute in; float32 shows differences of the weights best."),
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Check a downloaded model on this machine.

    Checks the sha256 of its files, the tokenizer, the chat template, and log-probabilities of fixed tokens by the
    installed transformers. Exits with 9 if anything differs. Needs no server.
    """
    require_packages(ENGINE_PACKAGES, extra="engine")
    command = [sys.executable, "-m", "soul_core.verify_export", str(folder), "--dtype", dtype]
    command += ["--base", base] if base else []
    command += ["--json"] if as_json else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)
