"""Compares objectives and optimizers on a pretrained model, SmolLM2-135M fine-tuned on the rows of `pretrained_data`:
forgetting against the utility of rows to keep that no run trains on. `python -m bench.pretrained` resumes.

Every run is measured every few steps, so that runs are compared at equal forgetting, wherever their learning rates end.
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.frontier import Course, Difference, compare
from bench.pretrained_data import Row, Task, make_tasks, read_general_texts
from bench.pretrained_model import build_target, choose_fast_dtype
from bench.recipes import Spec
from bench.row_scores import compute_mean, encode_content, score_rows
from bench.steps import StepResult, Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_model import WORK_FOLDER
from bench.tofu_report import DOCS_FOLDER
from soul_core.data.encoding import Example
from soul_core.errors import TrainingDivergedError
from soul_core.events import SilentListener
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import JobSpec
from soul_core.training.trainer import train

#: Rows measured of each set; general texts that are measured, and others that may be trained on or guard.
MEASURED_ROWS, NUM_GENERAL_TEXTS = 15, 12
_MICRO_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Bench:
    """A target model in memory, restored before every run, and the encoded rows of one task."""

    task: str
    loaded: LoadedModel
    weights: list[torch.Tensor]
    sets: Mapping[str, Sequence[Example]]
    """forget, retain, unseen, general, and guard: general texts that are not measured."""

    @property
    def digest(self) -> str:
        """A digest of the weights and rows."""
        total = hashlib.sha256(str([float(tensor.double().sum()) for tensor in self.weights]).encode())
        total.update(str([[example.token_ids for example in examples] for examples in self.sets.values()]).encode())
        return total.hexdigest()

    def restore(self) -> None:
        """Make the model the target again."""
        with torch.no_grad():
            for parameter, weights in zip(self.loaded.model.parameters(), self.weights, strict=True):
                parameter.copy_(weights)
                parameter.requires_grad_(requires_grad=True)

    @torch.no_grad()
    def measure(self, names: Sequence[str] = ("forget", "retain", "unseen", "general")) -> dict[str, list[float]]:
        """Return exp(mean log-probability per token) of the first rows of each set."""
        return {
            name: score_rows(
                self.loaded,
                self.sets[name][: MEASURED_ROWS if name != "forget" else None],
                max_tokens=_MICRO_BATCH_TOKENS,
            )
            for name in names
        }


def load_bench(model: Path, task: Task, folder: Path, *, dtype: Literal["float32", "bfloat16"]) -> Bench:
    """Load the target and encode the rows of a task."""
    loaded = load_model(model, device="cpu", dtype=dtype)
    rows: dict[str, list[Row]] = {
        "forget": task.forget,
        "retain": task.retain,
        "unseen": task.unseen,
        "general": read_general_texts(NUM_GENERAL_TEXTS),
        "guard": read_general_texts(48, skip=NUM_GENERAL_TEXTS),
    }
    sets = {}
    for name, content in rows.items():
        _, sets[name] = encode_content(loaded, folder / f"{task.name}-{name}.jsonl", content)
    return Bench(task.name, loaded, [p.detach().clone() for p in loaded.model.parameters()], sets)


#: Objective -> its terms. The retain weights are those of the issue's first trials; every optimizer has the same.
OBJECTIVES: dict[str, Spec] = {
    "npo": {"forget": {"kind": "npo"}, "retain": {"kind": "nll", "weight": 10}},
    "ce_u": {"forget": {"kind": "ce_u"}, "retain": {"kind": "nll", "weight": 5}},
    "simnpo": {"forget": {"kind": "simnpo"}, "retain": {"kind": "nll", "weight": 5}},
    "grad_diff": {"forget": {"kind": "grad_diff"}, "retain": {"kind": "nll", "weight": 5}},
}
_GUARD = {"kind": "gnb", "data": "guard"}
OPTIMIZERS: dict[str, Spec] = {
    "adamw": {"kind": "adamw", "lr": 3e-5},
    "sophia, gamma 1": {"kind": "sophia", "lr": 2e-5, "gamma": 1.0, "curvature": {"kind": "gnb", "data": "retain"}},
    "sophia, gamma auto": {"kind": "sophia", "lr": 5e-5, "gamma": "auto", "curvature": _GUARD},
    "sophia, lr auto": {"kind": "sophia", "lr": "auto", "gamma": "auto", "curvature": _GUARD},
    "kfac": {"kind": "kfac"},
}
#: Utilities are compared where the forget probability falls to this fraction of the target's.
FORGET_TARGETS = (0.5, 0.25)
_HEAD = ("objective", "optimizer", "seed", "forget", "retain", "unseen", "general", "unclipped", "CPU s")


@dataclass(frozen=True)
class Setting:
    """One run of the comparison."""

    objective: str
    optimizer: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its step."""
        return f"{self.objective}-{self.optimizer}-{self.seed}".replace(", ", "-").replace(" ", "-")

    def make_spec(self, num_steps: int, dtype: str) -> JobSpec:
        """Return the spec of the run."""
        training = {
            "steps": num_steps,
            "forget_batch": 6,
            "retain_batch": 6,
            "micro_batch_tokens": _MICRO_BATCH_TOKENS,
            "checkpoint_every": 1000,
        }
        terms, optimizer = OBJECTIVES[self.objective], OPTIMIZERS[self.optimizer]
        content = {**terms, "optimizer": optimizer, "training": training, "seed": self.seed, "dtype": dtype}
        return JobSpec.model_validate(content)


def run_setting(steps: Steps, bench: Bench, setting: Setting, *, num_steps: int, every: int, dtype: str) -> StepResult:
    """Train by a setting from the target, measured every few steps; the target itself is the first point."""
    spec = setting.make_spec(num_steps, dtype)

    def run(folder: Path) -> StepResult:
        bench.restore()
        points: list[dict[str, Any]] = [{"step": 0, **bench.measure()}]
        seconds = time.process_time()

        def monitor(step: int, *_: Any) -> bool:
            nonlocal seconds
            if step % every == 0:
                before = time.process_time()
                points.append({"step": step, **bench.measure()})
                seconds += time.process_time() - before  # measuring is not part of the cost
            return False

        try:
            result = train(
                bench.loaded,
                spec,
                forget=bench.sets["forget"],
                retain=bench.sets["retain"],
                guard=bench.sets["guard"],
                state_dir=folder,
                listener=SilentListener(),
                should_stop=monitor,
            )
        except TrainingDivergedError as error:
            return {"points": points, "curves": {}, "cpu_seconds": None, "failure": error.code}
        shutil.rmtree(folder / "train", ignore_errors=True)
        return {"points": points, "curves": result.curves, "cpu_seconds": time.process_time() - seconds}

    key = {"spec": spec.model_dump(mode="json"), "every": every, "rows": bench.digest}
    return steps.run_once(f"pretrained-{bench.task}-{setting.name}", key, run)


def make_course(result: StepResult, kept_set: str = "unseen") -> Course:
    """Return a run's course through the plane of forgetting and the probability of a set to keep."""
    return Course(*(np.array([point[name] for point in result["points"]]) for name in ("forget", kept_set)))


def main(arguments: list[str] | None = None) -> None:
    """Run what is not done, and write the tables after every run."""
    parser = argparse.ArgumentParser(prog="python -m bench.pretrained", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--task", default="people", help="people, authors, book, toxic or famous")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a run")
    parser.add_argument("--every", type=int, default=4, help="steps between two measurements")
    parser.add_argument("--quick", action="store_true", help="two objectives, two optimizers, one seed, 12 steps")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    if args.quick:
        args.objectives, args.seeds, args.steps = ["npo", "ce_u"], [0], 12
        args.optimizers = ["adamw", "sophia, gamma auto"]
    steps, tasks = Steps(args.work.resolve()), make_tasks()
    dtype = choose_fast_dtype(steps)
    bench = load_bench(build_target(steps, tasks, quick=args.quick), tasks[args.task], steps.work / "data", dtype=dtype)
    results: dict[Setting, StepResult] = {}
    for seed in args.seeds:
        for objective in args.objectives:
            for optimizer in args.optimizers:
                setting = Setting(objective, optimizer, seed)
                results[setting] = run_setting(
                    steps, bench, setting, num_steps=args.steps, every=args.every, dtype=dtype
                )
                if not args.quick:
                    text = f"{describe_run(_format_command(args))}\n\n{format_results(results)}"
                    write_between(args.results, f"pretrained_{args.task}", text)
    print(format_results(results))
    if args.json:
        print(json.dumps(summarize(results)))


def format_results(results: Mapping[Setting, StepResult]) -> str:
    """Return the last point of every run, and the differences at equal forgetting, as Markdown."""
    rows = [_make_row(setting, result) for setting, result in results.items()]
    base = next(iter(results.values()))["points"][0]
    rows.insert(
        0,
        ["**target**", "", "", *(compute_mean(base[name]) for name in ("forget", "retain", "unseen")), "", None, None],
    )
    lines = [format_table(_HEAD, rows), "", _format_differences(results)]
    return "\n".join(lines)


def summarize(results: Mapping[Setting, StepResult]) -> dict[str, Any]:
    """Return every difference from AdamW at equal forgetting."""
    return {
        f"{objective}, {optimizer}, {target}": vars(difference)
        for objective, optimizer, target, difference in _compare_all(results)
    }


def _make_row(setting: Setting, result: StepResult) -> list[str | float | None]:
    last, base = result["points"][-1], result["points"][0]
    unclipped = [value for value in result["curves"].get("unclipped_fraction", []) if value is not None]
    return [
        setting.objective,
        setting.optimizer,
        str(setting.seed),
        *(compute_mean(last[name]) for name in ("forget", "retain", "unseen")),
        f"{_perplexity(last['general']) / _perplexity(base['general']) - 1:+.1%}",
        compute_mean(unclipped) if unclipped else None,
        result["cpu_seconds"],
    ]


def _compare_all(results: Mapping[Setting, StepResult]) -> Iterator[tuple[str, str, float, Difference]]:
    for objective in dict.fromkeys(setting.objective for setting in results):
        for optimizer in dict.fromkeys(setting.optimizer for setting in results):
            first, second = (
                [make_course(results[s]) for s in results if (s.objective, s.optimizer) == (objective, name)]
                for name in (optimizer, "adamw")
            )
            if optimizer == "adamw" or not first or len(first) != len(second):
                continue
            for target in FORGET_TARGETS:
                yield objective, optimizer, target, compare(first, second, target)


def _format_differences(results: Mapping[Setting, StepResult]) -> str:
    rows: list[list[str | float | None]] = [
        [objective, optimizer, target, d.value, d.low, d.high, "yes" if d.excludes_zero else "no"]
        for objective, optimizer, target, d in _compare_all(results)
    ]
    head = ("objective", "against AdamW", "forget, of the target's", "unseen ahead by", "low", "high", "excludes 0")
    return format_table(head, rows)


def _perplexity(probabilities: Sequence[float]) -> float:
    return math.exp(-compute_mean([math.log(value) for value in probabilities]))


def _format_command(args: argparse.Namespace) -> str:
    names = ", ".join(args.optimizers)
    seeds = " ".join(map(str, args.seeds))
    return f"python -m bench.pretrained --task {args.task} --steps {args.steps} --seeds {seeds} ({names})"


if __name__ == "__main__":
    main()
