"""TOFU with full reports: target, retrained, NPO by first and by second order, and three checks that verdicts mean
something. `python -m bench.tofu_report` does it all, goes on where it was stopped, and writes `docs/results.md`.
"""

import argparse
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.engine import Job, report_of, run_job, seconds_of
from bench.recipes import FIRST_ORDER, SECOND_ORDER, Budget, Spec, Tuned, num_rows, tune, unlearning, value_of
from bench.steps import Steps
from bench.tables import measured_with, table, write_between
from bench.tofu_model import SIZES, WORK, Models, build
from soul_core.metric_catalogue import CATALOGUE

DOCS = Path(__file__).parents[1] / "docs"
#: Metrics that ask for other data than TOFU's: texts to continue, a toxicity classifier.
_OTHER_TASKS = {"verbatim_memorisation", "toxicity", "knowledge_memorisation"}
METRICS = tuple(name for name in CATALOGUE if name not in _OTHER_TASKS)
#: TOFU's own two questions (is it told apart from a retrained model? is it still useful?) and the forgotten answers.
CRITERIA = (
    {"set": "forget", "metric": "forget_quality", "at_least": 0.05},
    {"set": "forget", "metric": "rouge_l", "at_most": 0.7, "relative_to_base": True},
    {"set": "all", "metric": "model_utility", "at_least": 0.9, "relative_to_base": True},
)
_RECIPES = {"NPO, AdamW": FIRST_ORDER, "NPO, Sophia": SECOND_ORDER}
_BUDGET = Budget()
_TINY = Budget(epochs=5, batch=4, trial_rows=8, new_tokens=16, learning_rates=(1e-3, 1e-2))


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
    tuned = {title: _tuned(steps, title, models, budget, args.seed) for title in _RECIPES}
    lines = [
        *(_unlearned(steps, title, tuned[title].spec, models, budget) for title in _RECIPES),
        *_checks(steps, tuned, models, budget),
    ]
    first = lines[0].out
    lines = [Line("target (untouched)", first, "base"), Line("retrained", first, "reference"), *lines]
    write_between(args.results, "tofu_report", _text(args.size, lines, tuned, models))
    if args.example:
        _copy_example(next(line.out for line in lines if line.title == "NPO, Sophia"), args.example)


def _tuned(steps: Steps, title: str, models: Models, budget: Budget, seed: int) -> Tuned:
    forget = num_rows(models.tofu.measured["forget"])
    spec = unlearning({"kind": "npo"}, _RECIPES[title], budget, num_forget=forget, seed=seed)
    return tune(steps, _slug(title), spec, models, budget)


def _unlearned(steps: Steps, title: str, spec: Spec, models: Models, budget: Budget) -> Line:
    job = Job(
        {**spec, "evaluation": _evaluation(budget), "criteria": CRITERIA},
        models.target,
        models.tofu.measured,
        {"reference": models.retrained},
        model_name="tofu-target",
    )
    return Line(title, run_job(steps, f"report-{_slug(title)}", job), "unlearned")


def _checks(steps: Steps, tuned: dict[str, Tuned], models: Models, budget: Budget) -> list[Line]:
    """Audit what must fail, what must pass, and a model that was only destroyed."""
    ascent = unlearning(
        {"kind": "grad_diff"},
        {**FIRST_ORDER, "lr": max(budget.learning_rates)},
        replace(budget, epochs=3 * budget.epochs),
        num_forget=num_rows(models.tofu.measured["forget"]),
        seed=0,
        retain={"kind": "none"},
    )
    gibberish = run_job(
        steps,
        "gibberish",
        Job(
            {**ascent, "attacks": [], "criteria": CRITERIA, "evaluation": _evaluation(budget)},
            models.target,
            models.tofu.measured,
            {"reference": models.retrained},
            model_name="tofu-target",
        ),
    )
    return [
        _audit(steps, "check: untouched", models.target, models, budget),
        _audit(steps, "check: retrained", models.retrained, models, budget),
        Line("check: gradient ascent too long", gibberish, "unlearned"),
    ]


def _audit(steps: Steps, title: str, model: Path, models: Models, budget: Budget) -> Line:
    spec = {"kind": "evaluate", "attacks": [], "criteria": CRITERIA, "evaluation": _evaluation(budget)}
    also = {"base": models.target, "reference": models.retrained}
    out = run_job(steps, _slug(title), Job(spec, model, models.tofu.measured, also, model_name=model.parents[1].name))
    return Line(title, out, "audited")


def _evaluation(budget: Budget) -> dict[str, Any]:
    return {"metrics": METRICS, "max_new_tokens": budget.new_tokens, "attack_new_tokens": budget.new_tokens}


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
            "Probability, ROUGE-L, truth ratio and what relearning brings back (probability) are the forget set's. "
            f"CPU seconds of the whole run, all measurements and attacks included. Trainings: {times} (CPU).",
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
        *(value_of(report, line.model, "forget", m) for m in ("forget_quality", "probability", "rouge_l", "truth_ratio")),
        value_of(report, line.model, "all", "model_utility"),
        value_of(report, line.model, "forget", "privleak"),
        under and under["value"],
        report["verdict"] if own else None,
        seconds_of(line.out)["cpu"] if own else None,
    ]


def _copy_example(out: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "report.json"):
        shutil.copyfile(out / name, folder / name)


def _slug(title: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in title.lower()).replace("--", "-")


if __name__ == "__main__":
    main()
