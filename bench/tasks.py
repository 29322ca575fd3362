"""Every task in each variant: prepared from ../shared/data, learned by a small model, forgotten by its ready spec.
`python -m bench.tasks` goes on where it was stopped; the table lands as it came out.
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
from soul_core.spec.optimizers import Influence
from soul_core.tasks import TASKS

#: The targets of the other benchmarks know TOFU alone and read 512 tokens; a passage of a book has up to 1015 of these.
#: `rounds` is a factor of the epochs that SHOWN gives a task.
SIZES = {
    "small": Size(vocabulary=2048, hidden=128, intermediate=512, context=2048, rounds=(1,), lr=3e-3),
    "tiny": Size(vocabulary=400, hidden=32, intermediate=64, context=4096, rounds=(0.05,), lr=1e-2),
}
#: In place of the recipes' 5e-6 and 2e-5 (a hundred and 25 times), which belong to models of a billion parameters and
#: more: a rate is the model's, so it is one for all tasks.
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
    """What the benchmark takes of a task: rows of a set, and the measure that it is about (set, metric)."""

    num_rows: int
    measure: tuple[str, str]
    epochs: int = 30
    """For which it is taught. Long texts are few here, and learned more slowly than answers."""
    finetune_batch: int = 4
    batch: int = 4
    """Of the unlearning: with the recipes' 4, so few texts would make five steps."""
    extra_train_sets: tuple[str, ...] = ()
    """Sets that are taught beside forget and retain: the forgotten people in the other form, where the task has it."""


TASK_SETTINGS = {
    "tofu": TaskSettings(40, (FORGET, "rouge_l")),
    "book": TaskSettings(4, (FORGET, "continuation_rouge_l_100"), epochs=80, finetune_batch=2, batch=1),
    "detox": TaskSettings(8, (FORGET, "toxicity"), epochs=60, finetune_batch=2, batch=1),
    "personal_data": TaskSettings(40, ("rephrased", "keyword_recall"), extra_train_sets=("texts", "questions")),
    "general_text": TaskSettings(8, ("general", "perplexity"), epochs=60, finetune_batch=2),
}


@dataclass(frozen=True)
class Case:
    """One variant of a task, cut to what a small model learns in a minute."""

    task: str
    variant: str | None
    spec: Spec
    sets: Mapping[str, Path]
    train: Path

    @property
    def name(self) -> str:
        """Return the name of its steps and its line."""
        return f"{self.task}-{self.variant}" if self.variant else self.task


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=WORK_FOLDER / "tasks", help=f"work folder (default: ./{WORK_FOLDER}/tasks)"
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--model", type=Path, help="begin from this model (folder or GGUF), not from an untrained one")
    parser.add_argument("--learn-lr", type=float, help="rate at which the tasks are taught (default: the size's)")
    parser.add_argument("--lr", type=float, default=LR, help=f"in place of the recipes' (default: {LR:g})")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=args.size != "tiny")
    size = SIZES[args.size]
    size = replace(size, lr=args.learn_lr or size.lr)
    cases = [case for name in TASKS for case in _cases(steps.work, name, args.lr, seed=args.seed)]
    initial = args.model or make_untrained_model(steps, "initial", size, _all_text(steps.work, cases), seed=args.seed)
    rows = []
    for case in cases:
        if case.task in args.tasks:
            rows.append(_row(steps, case, size, initial, seed=args.seed))
            write_between(args.results, "tasks", _text(_said(args), rows, args.lr))


def _cases(work: Path, name: str, lr: float, *, seed: int) -> Iterator[Case]:
    """Prepare each variant of a task and cut its sets; a task without a forget set borrows one, as its users do."""
    task, shown = TASKS[name], TASK_SETTINGS[name]
    for variant in task.variants or (None,):
        folder = work / f"data-{name}-{variant or 'only'}"
        prepared = task.prepare(DATA_FOLDER, folder / "whole", variant=variant, seed=seed)
        files = {of_set: path for of_set, path in prepared.files.items() if of_set != "train"}
        if FORGET not in files:
            lender = TASKS["personal_data"].prepare(DATA_FOLDER, folder / "lender", seed=seed)
            files[FORGET] = lender.files[FORGET]
        sets = {of_set: _cut(path, folder / path.name, shown.num_rows) for of_set, path in files.items()}
        taught = [sets[one] for one in (FORGET, RETAIN, *shown.extra_train_sets) if one in sets]
        train = [row for path in taught for row in read_rows(path).require_valid_rows()]
        write_canonical(train, folder / "train.jsonl")
        yield Case(name, variant, _spec(prepared.spec, shown.batch, lr, seed), sets, folder / "train.jsonl")


def _cut(path: Path, to: Path, most: int) -> Path:
    write_atomically(to, "".join(path.read_text().splitlines(keepends=True)[:most]))
    return to


def _spec(recipe: Mapping[str, Any], batch: int, lr: float, seed: int) -> Spec:
    """Return the ready spec with all that the benchmark overrides: rate, batches, attacks, length of answers, seed."""
    spec = dict(recipe)
    return spec | {
        "seed": seed,
        "optimizer": {**spec.get("optimizer", {"kind": "sophia"}), "lr": lr},
        "training": {**spec["training"], "forget_batch": batch, "retain_batch": batch},
        "evaluation": {**spec.get("evaluation", {}), "max_new_tokens": 32, "num_answer_samples": 0},
        "attacks": [],
    }


def _all_text(work: Path, cases: Sequence[Case]) -> Path:
    """Write what the tokenizer is made from: all that any case teaches."""
    rows = [row for case in cases for row in read_rows(case.train).require_valid_rows()]
    texts = [{"question": " ".join(turn.content for turn in row.messages), "answer": row.completion} for row in rows]
    write_atomically(work / "text.jsonl", "".join(json.dumps(text) + "\n" for text in texts))
    return work / "text.jsonl"


def _row(steps: Steps, case: Case, size: Size, initial: Path, *, seed: int) -> list[str | float | None]:
    """Teach a case and unlearn it; return its line of the table."""
    shown = TASK_SETTINGS[case.task]
    size = replace(size, batch=shown.finetune_batch)
    taught = finetune(steps, f"learn-{case.name}", size, shown.epochs * size.rounds[0], initial, case.train, seed)
    job = EngineRun(case.spec, taught / CHECKPOINT, case.sets, model_name=case.name, threads=os.cpu_count() or 1)
    out = run_engine_once(steps, f"forget-{case.name}", job)
    report, (of_set, metric) = load_report(out), shown.measure

    def both(of_set: str, metric: str) -> str:
        return " → ".join(_shown(get_metric_value(report, model, of_set, metric)) for model in ("base", "unlearned"))

    return [
        case.name.replace("-", " "),
        f"{len(case.sets[FORGET].read_text().splitlines())}",
        f"{_recipe_lr(case.task):g}",
        str(report["run"]["steps"]),
        both(FORGET, "probability"),
        f"{of_set} {metric}",
        both(of_set, metric),
        both(RETAIN, "probability"),
        both("general", "perplexity") if "general" in case.sets else None,
        report["verdict"],
        load_run_seconds(taught)["cpu"],
        load_run_seconds(out)["cpu"],
    ]


def _recipe_lr(task: str) -> float:
    optimizer = JobSpec.model_validate(TASKS[task].recipe).optimizer
    assert not isinstance(optimizer, Influence)  # the one without a rate, which no recipe has
    return optimizer.lr


def _shown(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _said(args: argparse.Namespace) -> str:
    words = ["python -m bench.tasks", f"--size {args.size}", f"--lr {args.lr:g}"]
    words += [f"--model {args.model.name}"] if args.model else []
    words += [f"--learn-lr {args.learn_lr:g}"] if args.learn_lr else []
    words += ["--tasks " + " ".join(args.tasks)] if args.tasks != list(TASKS) else []
    return " ".join(words)


def _text(command: str, rows: Sequence[Sequence[str | float | None]], lr: float) -> str:
    alone = " and ".join(name for name, shown in TASK_SETTINGS.items() if shown.batch == 1)
    note = (
        f"The specs are those that `/v1/methods` lists, but for this: learning rate {lr:g}, batches of 1 for {alone}, "
        "answers of 32 tokens at most, no attacks. `rows` forget rows, at most as many of each other set. `A → B`: "
        "before and after. CPU seconds: of both runs of the engine, with all measurements."
    )
    return f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}\n\n{note}"


if __name__ == "__main__":
    main()
