"""`python -m soul_core.evaluation.lm_eval --model FOLDER --tasks a,b`: any task of the evaluation harness.

`soul_core.models.loading` loads the model, with its rules (safetensors only, no code that comes with a model); the
harness (Gao et al., doi:10.5281/zenodo.12608602; extra `lm-eval`) never loads one itself.
"""

import argparse
import difflib
import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from soul_core.atomic_io import write_atomically
from soul_core.errors import BadData, BadSpec, EngineError, ExitCode
from soul_core.models.loading import LoadedModel, load_model

_INSTALL = "it needs the evaluation harness: pip install 'soul-unlearning[lm-eval]'"
#: Parts of the harness's result that are written: values and settings, without the texts of all rows.
_RESULT_KEYS = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better", "configs")

HarnessResult = dict[str, Any]


def run_harness(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    include_path: Path | None = None,
    apply_chat_template: bool = False,
) -> HarnessResult:
    """Return the harness's results for `tasks`, with the model's facts and the versions.

    Args:
        num_fewshot: Few-shot examples; None: the tasks' own number.
        limit: Number of rows of each task, from the first; None: all.
        include_path: Folder of additional task files. A task file may name Python code, which then runs: include only
            your own.
        apply_chat_template: Whether to ask in the model's chat template.

    Raises:
        BadSpec: The extra is not installed, or a task is unknown.
        BadData: A task's data cannot be read.
    """
    _require_harness()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include_path is None else str(include_path), include_defaults=False)
    if not set(tasks) <= set(manager.all_tasks):  # to read the harness's own task files takes half a minute
        manager = TaskManager(include_path=None if include_path is None else str(include_path))
    check_task_names(tasks, manager.all_tasks)
    model = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        max_length=loaded.facts.context_tokens,
        batch_size=batch_size,
        mixed_precision_dtype=torch.bfloat16 if loaded.compute_dtype == torch.bfloat16 else None,
    )
    try:
        results: Any = simple_evaluate(
            model=model,
            tasks=list(tasks),
            num_fewshot=num_fewshot,
            limit=limit,
            task_manager=manager,
            apply_chat_template=apply_chat_template,
            log_samples=False,
            bootstrap_iters=0,
        )
    except (OSError, ConnectionError, FileNotFoundError) as error:
        raise BadData(
            f"the data of {', '.join(tasks)} cannot be read: {error}; a task downloads its data unless it names a file"
        ) from error
    written = {name: results[name] for name in _RESULT_KEYS if name in results}
    return {
        "model": loaded.facts.model_dump(),
        "tasks": list(tasks),
        "limit": limit,
        "versions_of": {name: version(name) for name in ("lm_eval", "transformers", "torch")},
        **json.loads(json.dumps(written, default=str)),
    }


def _require_harness() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise BadSpec(_INSTALL)


def check_task_names(tasks: Sequence[str], known_tasks: Sequence[str]) -> None:
    """Raise BadSpec for an unknown task, with similar names."""
    for name in tasks:
        if name not in known_tasks:
            similar = difflib.get_close_matches(name, known_tasks, n=3)
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise BadSpec(f"the harness has no task '{name}'{hint}")


def main(arguments: list[str] | None = None) -> int:
    """Run, write the result, and return the exit code."""
    args = _make_parser().parse_args(arguments)
    try:
        _require_harness()  # before the model is loaded
        loaded = load_model(args.model, device=args.device)
        result = run_harness(
            loaded,
            [name.strip() for name in args.tasks.split(",") if name.strip()],
            num_fewshot=args.shots,
            limit=args.limit,
            batch_size=args.batch,
            include_path=args.include,
            apply_chat_template=args.chat,
        )
    except EngineError as error:
        print("\n".join([f"lm_eval: {error.message}", *error.details]), file=sys.stderr)  # noqa: T201
        return error.exit_code
    write_atomically(args.out, json.dumps(result, indent=2) + "\n")
    for line in _format_lines(result):
        print(line)  # noqa: T201
    return ExitCode.OK


def _format_lines(result: HarnessResult) -> list[str]:
    """Return one line per task and metric: `mmlu_anatomy  acc,none  0.44`."""
    return [
        f"{task}  {metric}  {value:.4g}"
        for task, metrics in result["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, float) and "_stderr" not in metric
    ]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soul_core.evaluation.lm_eval",
        description="Measure a checkpoint on any task of the evaluation harness (extra lm-eval).",
        epilog="example: python -m soul_core.evaluation.lm_eval --model out/checkpoint --tasks arc_easy,hellaswag "
        "--limit 200 -o harness.json",
    )
    parser.add_argument("--model", required=True, help="folder with safetensors, GGUF file, or hub id")
    parser.add_argument("--tasks", required=True, help="names of tasks, groups or tags, separated by commas")
    parser.add_argument("-o", "--out", required=True, type=Path, help="file for the result, JSON")
    parser.add_argument("--limit", type=int, help="first rows of each task only")
    parser.add_argument("--shots", type=int, help="few-shot examples (default: the task's own number)")
    parser.add_argument("--batch", type=int, default=8, help="rows in one forward pass (default: 8)")
    parser.add_argument("--include", type=Path, help="folder of additional task files; they may run their own code")
    parser.add_argument("--chat", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: auto")
    return parser


if __name__ == "__main__":
    sys.exit(main())
