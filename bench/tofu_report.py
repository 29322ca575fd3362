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
#: All but those that ask for other data than TOFU's: texts to continue, a toxicity classifier, worked examples.
METRICS = tuple(
    name
    for name, entry in METRIC_CATALOG.items()
    if not (entry.prefix_tokens or {"continuations", "few_shot"} & set(entry.needs) or name == "toxicity")
)
#: TOFU's own two questions (is it told apart from a retrained model? is it still useful?) and the forgotten answers.
CRITERIA = (
    {"set": "forget", "metric": "forget_quality", "at_least": 0.05},
    {"set": "forget", "metric": "rouge_l", "at_most": 0.7, "relative_to_base": True},
    {"set": "all", "metric": "model_utility", "at_least": 0.9, "relative_to_base": True},
)
#: The default rate is made for pretrained models of 100 million weights and more: at 2e-5 this one hardly moves in five
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
    """One model of the table: where its report is, and by which name the report knows it."""

    title: str
    out: Path
    model: str


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, then write the table and, if asked to, the example."""
    parser = argparse.ArgumentParser(prog="python -m bench.tofu_report", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md", help="page the table is written to"
    )
    parser.add_argument("--example", type=Path, help="folder that a copy of the second-order report is written to")
    args = parser.parse_args(arguments)
    small = args.size == "tiny"
    steps = Steps(args.work.resolve(), use_subprocess=not small)
    budget = _TINY if small else _BUDGET
    models = build_models(steps, SIZES[args.size], seed=args.seed)
    bench = _Bench(steps, models, budget, args.seed, evaluate_retrained_model(steps, models, budget, seed=args.seed))
    with make_executor(steps) as pool:
        audits = [pool.submit(bench.audited, title, model) for title, model in bench.known.items()]
        unlearned = [pool.submit(bench.unlearned, title, optimizer) for title, optimizer in _RECIPES.items()]
        ruined = pool.submit(bench.ruined)
    lines = [*(one.result()[0] for one in unlearned), *(one.result() for one in audits), ruined.result()]
    tuned = {line.title: one.result()[1] for line, one in zip(lines, unlearned, strict=False)}
    first = lines[0].out
    lines = [TableRow("target", first, "base"), TableRow("retrained", first, "retrained"), *lines]
    write_between(args.results, "tofu_report", _text(args.size, lines, tuned, models))
    if args.example:
        _copy_example(next(line.out for line in lines if line.title == "NPO, Sophia"), args.example)


@dataclass(frozen=True)
class _Bench:
    """What all lines of the table share."""

    steps: Steps
    models: TofuModels
    budget: Budget
    seed: int
    log: Path
    """The retrained model as trials and checks measure it."""

    @property
    def known(self) -> dict[str, Path]:
        """Return the models whose verdict is known beforehand."""
        return {"check: untouched": self.models.target, "check: retrained": self.models.retrained}

    def unlearned(self, title: str, optimizer: Spec) -> tuple[TableRow, TunedRecipe]:
        """Tune NPO with an optimizer, and report on the learning rate that was chosen."""
        spec = self._spec({"kind": "npo"}, optimizer)
        tuned = tune(self.steps, _slug(title), spec, self.models, self.budget, log=self.log)
        job = EngineRun(
            {**tuned.spec, "evaluation": _evaluation(self.budget), "criteria": CRITERIA, "attacks": ATTACKS},
            self.models.target,
            self.models.tofu.evaluation_sets,
            {"retrained": self.models.retrained},
            model_name="tofu-target",
        )
        return TableRow(title, run_engine_once(self.steps, f"report-{_slug(title)}", job), "unlearned"), tuned

    def audited(self, title: str, model: Path) -> TableRow:
        """Audit a model by the criteria of unlearning, the target as its base."""
        spec = {"kind": "evaluate", "seed": self.seed, **_check(self.budget)}
        return TableRow(title, self._run(_slug(title), spec, model, {"base": self.models.target}), "evaluated")

    def ruined(self) -> TableRow:
        """Run gradient ascent far too long, and judge what is left."""
        optimizer = {**FIRST_ORDER, "lr": max(self.budget.learning_rates)}
        spec = self._spec({"kind": "gradient_ascent"}, optimizer) | {"retain": {"kind": "none"}}
        title = "check: ascent too long"
        return TableRow(title, self._run(_slug(title), spec | _check(self.budget), self.models.target, {}), "unlearned")

    def _spec(self, forget: Spec, optimizer: Spec) -> Spec:
        return make_unlearning_spec(forget, optimizer, self.budget, seed=self.seed)

    def _run(self, step: str, spec: Spec, model: Path, also: dict[str, Path]) -> Path:
        sets = {name: self.models.tofu.evaluation_sets[name] for name in EVALUATION_SET_NAMES}
        job = EngineRun(spec, model, sets, also, model_name=model.parents[1].name, retrained_log=self.log)
        return run_engine_once(self.steps, step, job)


def _check(budget: Budget) -> Spec:
    """Return what the checks have in common: measured as trials are, with intervals, on the rows of the log."""
    return {"attacks": [], "criteria": CRITERIA, "evaluation": {**make_trial_evaluation(budget), "bootstrap": 1000}}


def _evaluation(budget: Budget) -> dict[str, Any]:
    return {
        "metrics": METRICS,
        "max_examples": budget.report_rows,
        "max_new_tokens": budget.max_new_tokens,
        "attack_new_tokens": budget.max_new_tokens,
    }


def _text(size: str, lines: list[TableRow], tuned: dict[str, TunedRecipe], models: TofuModels) -> str:
    head = ("model", "forget quality (p)", "probability", "ROUGE-L", "truth ratio", "utility", "PrivLeak", "relearned")
    command = f"python -m bench.tofu_report --size {size}"
    trials = [
        (title, f"{trial.lr:g}", trial.forget_quality, trial.utility, trial.forget_probability, trial.seconds)
        for title, of_recipe in tuned.items()
        for trial in of_recipe.trials
    ]
    times = ", ".join(f"{name} {took['cpu']:.0f} s" for name, took in models.seconds.items())
    return "\n\n".join(
        (
            describe_run(command),
            format_table((*head, "verdict", "CPU s"), [_row(line) for line in lines]),
            _LEGEND,
            f"CPU seconds of the two trainings: {times}.",
            "Trials behind the learning rates:",
            format_table(("recipe", "lr", "forget quality", "utility", "forget probability", "CPU s"), trials),
        )
    )


def _row(line: TableRow) -> list[str | float | None]:
    report = load_report(line.out)
    own = line.model in {"unlearned", "evaluated"}
    relearned = next((one for one in report["attacks"] if one["label"] == "relearn"), None)
    under = relearned and relearned["attacked"].get(line.model, {}).get("forget", {}).get("probability")
    return [
        line.title,
        *(
            get_metric_value(report, line.model, "forget", m)
            for m in ("forget_quality", "probability", "rouge_l", "truth_ratio")
        ),
        get_metric_value(report, line.model, "all", "model_utility"),
        get_metric_value(report, line.model, "forget", "privleak"),
        under and under["value"],
        report["verdict"] if own else None,
        load_run_seconds(line.out)["cpu"] if own else None,
    ]


def _copy_example(out: Path, folder: Path) -> None:
    """Copy the page and, without its line breaks, the JSON behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / REPORT_PAGE, folder / REPORT_PAGE)
    compact = json.dumps(load_report(out), separators=(",", ":"), ensure_ascii=False)
    (folder / REPORT).write_text(compact + "\n")


def _slug(title: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in title.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
