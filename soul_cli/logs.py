"""`soul logs`: published evaluation logs, scored by the same code as our own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from soul_cli.errors import BadInput
from soul_cli.options import JsonOption
from soul_cli.output import console, print_table

logs = typer.Typer(help="Score published TOFU evaluation logs.", no_args_is_help=True)

_MEANINGS = {
    "forget_quality": "p-value against the retain model; above 0.05: not told apart",
    "model_utility": "of the unlearned model",
    "retain_model_utility": "of the retain model",
    "privleak": "percent; 0: like the retain model, -100: members show",
}


@logs.command("score")
def score(
    unlearned: Annotated[Path, typer.Argument(help="Log of the unlearned model (.json or .json.gz).")],
    retain: Annotated[Path, typer.Argument(help="Log of the model retrained without the forget set.")],
    as_json: JsonOption = False,
) -> None:
    """Recompute forget quality, model utility and PrivLeak from the per-example values of two logs."""
    from soul_core.errors import BadData  # here: `soul` starts fast without numpy and scipy
    from soul_core.tofu_logs import read_log, score_logs

    try:
        found = score_logs(read_log(unlearned), read_log(retain)).as_dict()
    except BadData as error:
        raise BadInput("; ".join([error.message, *error.details])) from error
    if as_json:
        console.print_json(json.dumps(found))
        return
    print_table(["metric", "value", "what it is"], [(name, f"{found[name]:.6g}", _MEANINGS[name]) for name in found])
