"""TOFU with full reports: target, retrained, NPO by first and by second order, and three checks that verdicts mean
something. `python -m bench.tofu_report` does it all, goes on where it was stopped, and writes `docs/results.md`.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine import Job, lanes, report_of, run_job, seconds_of
from bench.recipes import (
    FIRST_ORDER,
    MEASURED,
    SECOND_ORDER,
    Budget,
    Spec,
    Tuned,
    of_trials,
    tune,
    unlearning,
    value_of,
    yardstick,
)
from bench.steps import Steps
from bench.tables import measured_with, table, write_between
from bench.tofu_model import SIZES, WORK, Models, build
from soul_core.catalogue import CATALOGUE
from soul_core.spec.attacks import CHEAP_ATTACKS

DOCS = Path(__file__).parents[1] / "docs"
#: All but those that ask for other data than TOFU's: texts to continue, a toxicity classifier, worked examples.
METRICS = tuple(
    name
    for name, entry in CATALOGUE.items()
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
_TINY = Budget(steps=10, batch=4, trial_rows=8, new_tokens=16, learning_rates=(1e-3, 1e-2))


@dataclass(frozen=True)
class Line:
    """One model of the table: where its report is, and by which name the report knows it."""

    title: str
    out: Path
    model: str


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, then write the table and, if asked to, the example."""
    parser = argparse.ArgumentParser(prog="python -m bench.tofu_report", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help=f"work folder (default: ./{WORK})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=DOCS / "results.md", help="document the table is written to")
    parser.add_argument("--example", type=Path, help="folder that a copy of the second-order report is written to")
    args = parser.parse_args(arguments)
    small = args.size == "tiny"
    steps = Steps(args.work.resolve(), apart=not small)
    budget = _TINY if small else _BUDGET
    models = build(steps, SIZES[args.size], seed=args.seed)
    bench = _Bench(steps, models, budget, args.seed, yardstick(steps, models, budget, seed=args.seed))
    with lanes(steps) as pool:
        audits = [pool.submit(bench.audited, title, model) for title, model in bench.known.items()]
        unlearned = [pool.submit(bench.unlearned, title, optimizer) for title, optimizer in _RECIPES.items()]
        ruined = pool.submit(bench.ruined)
    lines = [*(one.result()[0] for one in unlearned), *(one.result() for one in audits), ruined.result()]
    tuned = {line.title: one.result()[1] for line, one in zip(lines, unlearned, strict=False)}
    first = lines[0].out
    lines = [Line("target", first, "base"), Line("retrained", first, "reference"), *lines]
    write_between(args.results, "tofu_report", _text(args.size, lines, tuned, models))
    if args.example:
        _copy_example(next(line.out for line in lines if line.title == "NPO, Sophia"), args.example)


@dataclass(frozen=True)
class _Bench:
    """What all lines of the table share."""

    steps: Steps
    models: Models
    budget: Budget
    seed: int
    log: Path
    """The retrained model as trials and checks measure it."""

    @property
    def known(self) -> dict[str, Path]:
        """Return the models whose verdict is known beforehand."""
        return {"check: untouched": self.models.target, "check: retrained": self.models.retrained}

    def unlearned(self, title: str, optimizer: Spec) -> tuple[Line, Tuned]:
        """Tune NPO with an optimizer, and report on the learning rate that was chosen."""
        spec = self._spec({"kind": "npo"}, optimizer)
        tuned = tune(self.steps, _slug(title), spec, self.models, self.budget, log=self.log)
        job = Job(
            {**tuned.spec, "evaluation": _evaluation(self.budget), "criteria": CRITERIA, "attacks": ATTACKS},
            self.models.target,
            self.models.tofu.measured,
            {"reference": self.models.retrained},
            model_name="tofu-target",
        )
        return Line(title, run_job(self.steps, f"report-{_slug(title)}", job), "unlearned"), tuned

    def audited(self, title: str, model: Path) -> Line:
        """Audit a model by the criteria of unlearning, the target as its base."""
        spec = {"kind": "evaluate", "seed": self.seed, **_check(self.budget)}
        return Line(title, self._run(_slug(title), spec, model, {"base": self.models.target}), "audited")

    def ruined(self) -> Line:
        """Run gradient ascent far too long, and judge what is left."""
        optimizer = {**FIRST_ORDER, "lr": max(self.budget.learning_rates)}
        spec = self._spec({"kind": "gradient_ascent"}, optimizer) | {"retain": {"kind": "none"}}
        title = "check: ascent too long"
        return Line(title, self._run(_slug(title), spec | _check(self.budget), self.models.target, {}), "unlearned")

    def _spec(self, forget: Spec, optimizer: Spec) -> Spec:
        return unlearning(forget, optimizer, self.budget, seed=self.seed)

    def _run(self, step: str, spec: Spec, model: Path, also: dict[str, Path]) -> Path:
        sets = {name: self.models.tofu.measured[name] for name in MEASURED}
        job = Job(spec, model, sets, also, model_name=model.parents[1].name, reference_log=self.log)
        return run_job(self.steps, step, job)


def _check(budget: Budget) -> Spec:
    """Return what the checks have in common: measured as trials are, with intervals, on the rows of the log."""
    return {"attacks": [], "criteria": CRITERIA, "evaluation": {**of_trials(budget), "bootstrap": 1000}}


def _evaluation(budget: Budget) -> dict[str, Any]:
    return {
        "metrics": METRICS,
        "max_examples": budget.report_rows,
        "max_new_tokens": budget.new_tokens,
        "attack_new_tokens": budget.new_tokens,
    }


def _text(size: str, lines: list[Line], tuned: dict[str, Tuned], models: Models) -> str:
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
            measured_with(command),
            table((*head, "verdict", "CPU s"), [_row(line) for line in lines]),
            _LEGEND,
            f"CPU seconds of the two trainings: {times}.",
            "Trials behind the learning rates:",
            table(("recipe", "lr", "forget quality", "utility", "forget probability", "CPU s"), trials),
        )
    )


def _row(line: Line) -> list[str | float | None]:
    report = report_of(line.out)
    own = line.model in {"unlearned", "audited"}
    relearned = next((one for one in report["attacks"] if one["label"] == "relearn"), None)
    under = relearned and relearned["under"].get(line.model, {}).get("forget", {}).get("probability")
    return [
        line.title,
        *(
            value_of(report, line.model, "forget", m)
            for m in ("forget_quality", "probability", "rouge_l", "truth_ratio")
        ),
        value_of(report, line.model, "all", "model_utility"),
        value_of(report, line.model, "forget", "privleak"),
        under and under["value"],
        report["verdict"] if own else None,
        seconds_of(line.out)["cpu"] if own else None,
    ]


def _copy_example(out: Path, folder: Path) -> None:
    """Copy the page and, without its line breaks, the JSON behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "report.html", folder / "report.html")
    compact = json.dumps(report_of(out), separators=(",", ":"), ensure_ascii=False)
    (folder / "report.json").write_text(compact + "\n")


def _slug(title: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in title.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
