"""`soul verify-export`: a downloaded model, compared with what was measured. The engine does it, in its own process."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from soul_cli.errors import BadInput
from soul_cli.options import JsonOption

VERIFY_EXAMPLE = "Example: soul download job_... -o unlearned && soul verify-export unlearned"


def verify_export(
    folder: Annotated[
        Path, typer.Argument(help="What `soul download` wrote, or the checkpoint or adapter folder in it.")
    ],
    base: Annotated[
        str | None, typer.Option("--base", help="Base model of an adapter: folder or hub id.", show_default=False)
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="Type to compute in; float32 tells best whether the weights are right."),
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Check a downloaded model on this machine: sha256 of its files, tokenizer, chat template, and log-probabilities
    of fixed tokens by the installed transformers. Ends with 9 when anything differs. Asks no server.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise BadInput("this needs torch and transformers: pip install 'soul-unlearning[engine]'")
    command = [sys.executable, "-m", "soul_core.verify_export", str(folder), "--dtype", dtype]
    command += ["--base", base] if base else []
    command += ["--json"] if as_json else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)
