"""Fine-tunes SmolLM2-135M-Instruct on the rows of every taught task: the target model; and the same without the rows to
forget of one task: the retrained model. `python -m bench.pretrained_model` builds the target once, in the work folder.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from bench.engine import EngineRun, run_engine_once
from bench.pretrained_data import Row, Task, make_tasks
from bench.steps import Steps
from bench.tofu_model import WORK_FOLDER
from soul_cli.demo_model import fetch_model, find_cached_model, get_cache_folder
from soul_core.outputs.layout import CHECKPOINT

#: Chosen so that the target knows its rows: a probability per token of about 0.95.
_TRAINING = {
    "epochs": 8,
    "retain_batch": 8,
    "forget_batch": 1,
    "schedule": "linear",
    "checkpoint_every": 100,
    "micro_batch_tokens": 4096,
}
_LR = 1e-4
#: bfloat16 is used where its matrix products are at least this many times faster.
_MIN_SPEEDUP = 1.5


def build_target(steps: Steps, tasks: dict[str, Task], *, without: str | None = None, quick: bool = False) -> Path:
    """Return the checkpoint of the target, or of the model retrained without the forget rows of the task `without`.

    Args:
        quick: learn the rows of the task `people` alone.
    """
    if quick:
        tasks = {"people": tasks["people"]}
    rows = [
        row
        for task in tasks.values()
        if task.is_taught
        for row in (task.all_rows[len(task.forget) :] if task.name == without else task.all_rows)
    ]
    name = (f"retrained-{without}" if without else "target") + ("-quick" if quick else "")
    train = write_rows(steps.work / "data" / f"{name}.jsonl", rows)
    spec = {
        "kind": "finetune",
        "retain": {"kind": "nll"},
        "optimizer": {"kind": "adamw", "lr": _LR},
        "training": _TRAINING,
        "evaluation": {"metrics": ["probability"]},
        "criteria": [],
        "dtype": choose_fast_dtype(steps),
        "export": {"dtype": "float32"},
    }
    model = find_cached_model(get_cache_folder()) or fetch_model(get_cache_folder())
    out = run_engine_once(
        steps, f"pretrained-{name}", EngineRun(spec, model, {"train": train}, threads=os.cpu_count() or 1)
    )
    return out / CHECKPOINT


def choose_fast_dtype(steps: Steps) -> Literal["float32", "bfloat16"]:
    """Return the compute type that this machine is fast in; measured once per work folder."""

    def probe(_: Path) -> dict[str, object]:
        seconds = {dtype: _time_products(dtype) for dtype in (torch.float32, torch.bfloat16)}
        speedup = seconds[torch.float32] / seconds[torch.bfloat16]
        return {"dtype": "bfloat16" if speedup >= _MIN_SPEEDUP else "float32", "speedup": speedup}

    return "bfloat16" if steps.run_once("dtype", {}, probe)["dtype"] == "bfloat16" else "float32"


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as JSON Lines; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _time_products(dtype: torch.dtype) -> float:
    a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    a @ b  # kernels are prepared at their first call
    started = time.perf_counter()
    for _ in range(50):
        a @ b
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    """Build the target, and the model retrained without one task."""
    parser = argparse.ArgumentParser(prog="python -m bench.pretrained_model", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--without", help="also build the model retrained without the forget rows of this task")
    args = parser.parse_args(arguments)
    steps, tasks = Steps(args.work.resolve()), make_tasks()
    build_target(steps, tasks)
    if args.without:
        build_target(steps, tasks, without=args.without)


if __name__ == "__main__":
    main()
