"""TOFU with full reports: target, retrained, NPO by first and by second order, and three checks that verdicts mean
something. `python -m bench.tofu_report` does it all, resumes when stopped, and writes docs/reference/results.md.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine import EngineRun, load_report, load_run_seconds, make_executor, run_engine_once
from bench.recipes import (
    EVALUATION_SET_NAMES,
    FIRST_ORDER,
    SECOND_ORDER,
    Budget,
    Spec,
    TunedRecipe,
    evaluate_retrained_model,
    get_metric_value,
    make_trial_evaluation,
    make_unlearning_spec,
    tune,
)
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_model import SIZES, WORK_FOLDER, TofuModels, build_models
from soul_core.catalogue import METRIC_CATALOG
from soul_core.outputs.layout import REPORT, REPORT_PAGE
from soul_core.spec.attacks import CHEAP_ATTACKS

DOCS_FOLDER = Path(__file__).parents[1] / "docs"
#: All metrics that need only TOFU's data: no texts to continue, no toxicity classifier, no few-shot examples.
METRICS = tuple(
    name
    for name, entry in METRIC_CATALOG.items()
    if not (entry.prefix_tokens or {"continuations", "few_shot"} & set(entry.needs) or name == "toxicity")
)
#: TOFU's two criteria (indistinguishable from a retrained model, still useful) and the answers of the forget set.
CRITERIA = (
    {"set": "forget", "metric": "forget_quality", "at_least": 0.05},
    {"set": "forget", "metric": "rouge_l", "at_most": 0.7, "relative_to_base": True},
    {"set": "all", "metric": "model_utility", "at_least": 0.9, "relative_to_base": True},
)
#: The default rate suits pretrained models of 100 million weights and more: at 2e-5 this model hardly changes in five
#: steps, and an attack that cannot learn proves nothing. Here attacks learn as fast as the recipes.
_ATTACK_RATE = 6e-4
ATTACKS = [
    {**attack.model_dump(mode="json"), **({"lr": _ATTACK_RATE} if hasattr(attack, "lr") else {})}
    for attack in CHEAP_ATTACKS
]
_RECIPES = {"NPO, AdamW": FIRST_ORDER, "NPO, Sophia": SECOND_ORDER}
_LEGEND = (
    "Probability, ROUGE-L, truth ratio and PrivLeak are the forget set's; `relearned` is its probability after the "
    "relearning attack. CPU seconds: the whole run, with all measurements and attacks."
)
_BUDGET = Budget()
_TINY = Budget(steps=10, batch=4, trial_rows=8, max_new_tokens=16, learning_rates=(1e-3, 1e-2))


@dataclass(frozen=True)
class TableRow:
    """One model of the table: its title, the output folder with its report, and its name in that report."""

    title: str
    out: Path
    model: str


def main(arguments: list[str] | None = None) -> None:
    """Run the remaining steps, then write the table and, with --example, the example."""
    parser = argparse.ArgumentParser(prog="python -m bench.tofu_report", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md", help="page the table is written to"
    )
    parser.add_argument("--example", type=Path, help="folder that a copy of the second-order report is written to")
    args = parser.parse_args(arguments)
    is_tiny = args.size == "tiny"
    steps = Steps(args.work.resolve(), use_subprocess=not is_tiny)
    budget = _TINY if is_tiny else _BUDGET
    models = build_models(steps, SIZES[args.size], seed=args.seed)
    log = evaluate_retrained_model(steps, models, budget, seed=args.seed)
    bench = _Bench(steps, models, budget, args.seed, log)
    known_models = {"check: untouched": models.target, "check: retrained": models.retrained}
    with make_executor(steps) as pool:
        checks = [pool.submit(bench.evaluate_model, title, model) for title, model in known_models.items()]
        recipes = [pool.submit(bench.tune_and_report, title, optimizer) for title, optimizer in _RECIPES.items()]
        checks.append(pool.submit(bench.overtrain))
    tuned = {row.title: recipe for row, recipe in (future.result() for future in recipes)}
    rows = [*(future.result()[0] for future in recipes), *(future.result() for future in checks)]
    first = rows[0].out
    rows = [TableRow("target", first, "base"), TableRow("retrained", first, "retrained"), *rows]
    write_between(args.results, "tofu_report", _make_text(args.size, rows, tuned, models))
    if args.example:
        _copy_example(next(row.out for row in rows if row.title == "NPO, Sophia"), args.example)


@dataclass(frozen=True)
class _Bench:
    """The inputs that all rows of the table share."""

    steps: Steps
    models: TofuModels
    budget: Budget
    seed: int
    log: Path
    """Measurements of the retrained model, with the settings of trials and checks."""

    def tune_and_report(self, title: str, optimizer: Spec) -> tuple[TableRow, TunedRecipe]:
        """Tune NPO with an optimizer, and report on the best learning rate."""
        spec = self._make_spec({"kind": "npo"}, optimizer)
        tuned = tune(self.steps, _make_slug(title), spec, self.models, self.budget, log=self.log)
        job = EngineRun(
            {**tuned.spec, "evaluation": _make_evaluation(self.budget), "criteria": CRITERIA, "attacks": ATTACKS},
            self.models.target,
            self.models.tofu.evaluation_sets,
            {"retrained": self.models.retrained},
            model_name="tofu-target",
        )
        return TableRow(title, run_engine_once(self.steps, f"report-{_make_slug(title)}", job), "unlearned"), tuned

    def evaluate_model(self, title: str, model: Path) -> TableRow:
        """Evaluate a model by the criteria of unlearning, with the target as its base."""
        spec = {"kind": "evaluate", "seed": self.seed, **_make_check_settings(self.budget)}
        return TableRow(title, self._run(_make_slug(title), spec, model, {"base": self.models.target}), "evaluated")

    def overtrain(self) -> TableRow:
        """Run gradient ascent far too long, and judge the resulting model."""
        optimizer = {**FIRST_ORDER, "lr": max(self.budget.learning_rates)}
        spec = self._make_spec({"kind": "gradient_ascent"}, optimizer) | {"retain": {"kind": "none"}}
        spec |= _make_check_settings(self.budget)
        title = "check: ascent too long"
        return TableRow(title, self._run(_make_slug(title), spec, self.models.target, {}), "unlearned")

    def _make_spec(self, forget: Spec, optimizer: Spec) -> Spec:
        return make_unlearning_spec(forget, optimizer, self.budget, seed=self.seed)

    def _run(self, step: str, spec: Spec, model: Path, compared_models: dict[str, Path]) -> Path:
        sets = {name: self.models.tofu.evaluation_sets[name] for name in EVALUATION_SET_NAMES}
        job = EngineRun(spec, model, sets, compared_models, model_name=model.parents[1].name, retrained_log=self.log)
        return run_engine_once(self.steps, step, job)


def _make_check_settings(budget: Budget) -> Spec:
    """Return the settings of the checks: measured as trials are, with intervals, on the rows of the log."""
    return {"attacks": [], "criteria": CRITERIA, "evaluation": {**make_trial_evaluation(budget), "bootstrap": 1000}}


def _make_evaluation(budget: Budget) -> dict[str, Any]:
    return {
        "metrics": METRICS,
        "max_examples": budget.report_rows,
        "max_new_tokens": budget.max_new_tokens,
        "attack_new_tokens": budget.max_new_tokens,
        "general_text": [],
    }


def _make_text(size: str, rows: list[TableRow], tuned: dict[str, TunedRecipe], models: TofuModels) -> str:
    head = ("model", "forget quality (p)", "probability", "ROUGE-L", "truth ratio", "utility", "PrivLeak", "relearned")
    command = f"python -m bench.tofu_report --size {size}"
    trials = [
        (title, f"{trial.lr:g}", trial.forget_quality, trial.utility, trial.forget_probability, trial.seconds)
        for title, recipe in tuned.items()
        for trial in recipe.trials
    ]
    times = ", ".join(f"{name} {seconds['cpu']:.0f} s" for name, seconds in models.seconds.items())
    return "\n\n".join(
        (
            describe_run(command),
            format_table((*head, "verdict", "CPU s"), [_make_cells(row) for row in rows]),
            _LEGEND,
            f"CPU seconds of the two trainings: {times}.",
            "The trials that chose the learning rates:",
            format_table(("recipe", "lr", "forget quality", "utility", "forget probability", "CPU s"), trials),
        )
    )


def _make_cells(row: TableRow) -> list[str | float | None]:
    report = load_report(row.out)
    is_judged = row.model in {"unlearned", "evaluated"}
    relearn = next((attack for attack in report["attacks"] if attack["label"] == "relearn"), None)
    relearned = relearn and relearn["attacked"].get(row.model, {}).get("forget", {}).get("probability")
    metrics = ("forget_quality", "probability", "rouge_l", "truth_ratio")
    return [
        row.title,
        *(get_metric_value(report, row.model, "forget", metric) for metric in metrics),
        get_metric_value(report, row.model, "all", "model_utility"),
        get_metric_value(report, row.model, "forget", "privleak"),
        relearned and relearned["value"],
        report["verdict"] if is_judged else None,
        load_run_seconds(row.out)["cpu"] if is_judged else None,
    ]


def _copy_example(out: Path, folder: Path) -> None:
    """Copy the report's page and its JSON, the latter without line breaks."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / REPORT_PAGE, folder / REPORT_PAGE)
    compact = json.dumps(load_report(out), separators=(",", ":"), ensure_ascii=False)
    (folder / REPORT).write_text(compact + "\n")


def _make_slug(title: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in title.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
