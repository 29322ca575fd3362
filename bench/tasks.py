"""Runs every task in each variant: prepares it from ../shared/data, teaches it to a small model, and unlearns it.
`python -m bench.tasks` resumes where it was stopped and writes every result.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.engine import EngineRun, load_report, load_run_seconds, run_engine_once
from bench.recipes import Spec, get_metric_value
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_data import DATA_FOLDER
from bench.tofu_model import WORK_FOLDER, Size, finetune, make_untrained_model
from bench.tofu_report import DOCS_FOLDER
from soul_core.atomic_io import write_atomically
from soul_core.data import read_rows, write_canonical
from soul_core.formatting import format_number
from soul_core.outputs.layout import CHECKPOINT
from soul_core.spec import FORGET, RETAIN, JobSpec
from soul_core.tasks import TASKS

#: The models of the other benchmarks know only TOFU and read 512 tokens; a passage of a book has up to 1015.
#: `rounds` multiplies the epochs of TASK_SETTINGS.
SIZES = {
    "small": Size(vocabulary=2048, hidden=128, intermediate=512, context=2048, rounds=(1,), lr=3e-3),
    "tiny": Size(vocabulary=400, hidden=32, intermediate=64, context=4096, rounds=(0.05,), lr=1e-2),
}
#: Replaces the recipes' 5e-6 and 2e-5 (it is 100 and 25 times as large), which suit models of a billion parameters and
#: more. The learning rate depends on the model, so it is the same for all tasks.
LR = 5e-4
_HEAD = (
    "task",
    "rows",
    "recipe's lr",
    "steps",
    "forget probability",
    "its own measure",
    "before, after",
    "retain probability",
    "general perplexity",
    "verdict",
    "CPU s: learn",
    "CPU s: forget",
)


@dataclass(frozen=True)
class TaskSettings:
    """How the benchmark runs a task: the number of rows per set, and the (set, metric) that shows its effect."""

    num_rows: int
    measure: tuple[str, str]
    epochs: int = 30
    """Epochs of the fine-tuning. Tasks of long texts have few rows, which are learned more slowly than answers."""
    finetune_batch: int = 4
    batch: int = 4
    """Rows per unlearning step: with the recipes' 4, the few long texts would make only five steps."""
    extra_train_sets: tuple[str, ...] = ()
    """Sets taught in addition to forget and retain: the people to forget in the task's other form, where it has one."""


TASK_SETTINGS = {
    "tofu": TaskSettings(40, (FORGET, "rouge_l")),
    "book": TaskSettings(4, (FORGET, "continuation_rouge_l_100"), epochs=80, finetune_batch=2, batch=1),
    "detox": TaskSettings(8, (FORGET, "toxicity"), epochs=60, finetune_batch=2, batch=1),
    "personal_data": TaskSettings(40, ("rephrased", "keyword_recall"), extra_train_sets=("texts", "questions")),
    "general_text": TaskSettings(8, ("general", "perplexity"), epochs=60, finetune_batch=2),
}


@dataclass(frozen=True)
class Case:
    """One variant of a task, reduced to what a small model learns in a minute."""

    task: str
    variant: str | None
    spec: Spec
    sets: Mapping[str, Path]
    train: Path

    @property
    def name(self) -> str:
        """The name of its steps and of its row in the table."""
        return f"{self.task}-{self.variant}" if self.variant else self.task


def main(arguments: list[str] | None = None) -> None:
    """Run the remaining steps, and write the table after every case."""
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=WORK_FOLDER / "tasks", help=f"work folder (default: ./{WORK_FOLDER}/tasks)"
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--model", type=Path, help="start from this model (folder or GGUF), not from an untrained one")
    parser.add_argument("--learn-lr", type=float, help="learning rate of the fine-tuning (default: the size's)")
    parser.add_argument("--lr", type=float, default=LR, help=f"learning rate of the unlearning (default: {LR:g})")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=args.size != "tiny")
    size = SIZES[args.size]
    size = replace(size, lr=args.learn_lr or size.lr)
    cases = [case for name in TASKS for case in _prepare_cases(steps.work, name, args.lr, seed=args.seed)]
    text = _write_text(steps.work, cases)
    initial = args.model or make_untrained_model(steps, "initial", size, text, seed=args.seed)
    rows = []
    for case in cases:
        if case.task in args.tasks:
            rows.append(_run_case(steps, case, size, initial, seed=args.seed))
            write_between(args.results, "tasks", _make_text(_format_command(args), rows, args.lr))


def _prepare_cases(work: Path, name: str, lr: float, *, seed: int) -> Iterator[Case]:
    """Prepare each variant of a task and cut its sets; a task without a forget set takes one of another task."""
    task, settings = TASKS[name], TASK_SETTINGS[name]
    for variant in task.variants or (None,):
        folder = work / f"data-{name}-{variant or 'only'}"
        prepared = task.prepare(DATA_FOLDER, folder / "whole", variant=variant, seed=seed)
        files = {set_name: path for set_name, path in prepared.files.items() if set_name != "train"}
        if FORGET not in files:
            other_task = TASKS["personal_data"].prepare(DATA_FOLDER, folder / "lender", seed=seed)
            files[FORGET] = other_task.files[FORGET]
        sets = {set_name: _cut(path, folder / path.name, settings.num_rows) for set_name, path in files.items()}
        train_files = [sets[set_name] for set_name in (FORGET, RETAIN, *settings.extra_train_sets) if set_name in sets]
        train = [row for path in train_files for row in read_rows(path).require_valid_rows()]
        write_canonical(train, folder / "train.jsonl")
        yield Case(name, variant, _make_spec(prepared.spec, settings.batch, lr, seed), sets, folder / "train.jsonl")


def _cut(path: Path, target: Path, max_rows: int) -> Path:
    write_atomically(target, "".join(path.read_text().splitlines(keepends=True)[:max_rows]))
    return target


def _make_spec(recipe: Mapping[str, Any], batch: int, lr: float, seed: int) -> Spec:
    """Return a task's spec with the benchmark's learning rate, batches, attacks, answer length and seed."""
    spec = dict(recipe)
    return spec | {
        "seed": seed,
        "optimizer": {**spec.get("optimizer", {"kind": "sophia"}), "lr": lr},
        "training": {**spec["training"], "forget_batch": batch, "retain_batch": batch},
        "evaluation": {**spec.get("evaluation", {}), "max_new_tokens": 32, "num_answer_samples": 0},
        "attacks": [],
    }


def _write_text(work: Path, cases: Sequence[Case]) -> Path:
    """Write the text that the tokenizer is trained on: the training rows of all cases."""
    rows = [row for case in cases for row in read_rows(case.train).require_valid_rows()]
    texts = [{"question": " ".join(turn.content for turn in row.messages), "answer": row.completion} for row in rows]
    write_atomically(work / "text.jsonl", "".join(json.dumps(text) + "\n" for text in texts))
    return work / "text.jsonl"


def _run_case(steps: Steps, case: Case, size: Size, initial: Path, *, seed: int) -> list[str | float | None]:
    """Fine-tune on a case and unlearn it; return its row of the table."""
    settings = TASK_SETTINGS[case.task]
    size = replace(size, batch=settings.finetune_batch)
    finetuned = finetune(steps, f"learn-{case.name}", size, settings.epochs * size.rounds[0], initial, case.train, seed)
    job = EngineRun(case.spec, finetuned / CHECKPOINT, case.sets, model_name=case.name, threads=os.cpu_count() or 1)
    out = run_engine_once(steps, f"forget-{case.name}", job)
    report, (measured_set, measured_metric) = load_report(out), settings.measure
    recipe_optimizer = JobSpec.model_validate(TASKS[case.task].recipe).optimizer

    def format_change(set_name: str, metric: str) -> str:
        values = [get_metric_value(report, model, set_name, metric) for model in ("base", "unlearned")]
        return " → ".join("–" if value is None else format_number(value) for value in values)

    return [
        case.name.replace("-", " "),
        f"{len(case.sets[FORGET].read_text().splitlines())}",
        "auto" if recipe_optimizer.lr == "auto" else f"{recipe_optimizer.lr:g}",
        str(report["run"]["steps"]),
        format_change(FORGET, "probability"),
        f"{measured_set} {measured_metric}",
        format_change(measured_set, measured_metric),
        format_change(RETAIN, "probability"),
        format_change("general", "perplexity") if "general" in case.sets else None,
        report["verdict"],
        load_run_seconds(finetuned)["cpu"],
        load_run_seconds(out)["cpu"],
    ]


def _format_command(args: argparse.Namespace) -> str:
    words = ["python -m bench.tasks", f"--size {args.size}", f"--lr {args.lr:g}"]
    words += [f"--model {args.model.name}"] if args.model else []
    words += [f"--learn-lr {args.learn_lr:g}"] if args.learn_lr else []
    words += ["--tasks " + " ".join(args.tasks)] if args.tasks != list(TASKS) else []
    return " ".join(words)


def _make_text(command: str, rows: Sequence[Sequence[str | float | None]], lr: float) -> str:
    single_row_tasks = " and ".join(name for name, settings in TASK_SETTINGS.items() if settings.batch == 1)
    note = (
        f"The specs are those that `/v1/methods` lists, except for: learning rate {lr:g}, batches of 1 for "
        f"{single_row_tasks}, answers of at most 32 tokens, no attacks. `rows`: forget rows, and the maximum for each "
        "other set. `A → B`: before and after. CPU seconds: of both runs of the engine, with all measurements."
    )
    return f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}\n\n{note}"


if __name__ == "__main__":
    main()
