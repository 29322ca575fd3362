"""Every objective by first and by second order on TOFU, tuned on the same budget of trials, with influence unlearning
and LoRA beside them. `python -m bench.quality` goes on where it was stopped; the table lands as it came out.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from bench.engine import EngineFailure, EngineRun, load_report, load_run_seconds, make_executor, run_engine_once
from bench.recipes import (
    FIRST_ORDER,
    MIN_UTILITY_FRACTION,
    SECOND_ORDER,
    Budget,
    LearningRateTrial,
    Spec,
    evaluate_retrained_model,
    get_metric_value,
    make_unlearning_spec,
    tune,
)
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_data import Split
from bench.tofu_model import SIZES, WORK_FOLDER, TofuModels, build_models
from bench.tofu_report import DOCS_FOLDER
from soul_core.spec.terms import ForgetTerm

OBJECTIVES: tuple[str, ...] = tuple(
    get_args(choice.model_fields["kind"].annotation)[0] for choice in get_args(get_args(ForgetTerm)[0])
)
#: Objectives of an answer's summed log-probability.
_SUMMED = {"npo", "dpo", "altpo"}
_OPTIMIZERS = {"adamw": FIRST_ORDER, "sophia": SECOND_ORDER}
#: Beside the objectives: one static step, and adapters in place of all weights.
OTHER_RECIPES: dict[str, Spec] = {
    "influence": {"optimizer": {"kind": "influence"}},
    "npo-lora-adamw": {"optimizer": FIRST_ORDER, "lora": {"rank": 16}},
    "npo-lora-sophia": {"optimizer": SECOND_ORDER, "lora": {"rank": 16}},
}
#: Trials of a recipe. The larger rates of `tofu_report` left no objective but NPO a useful model.
RATES = (1e-4, 3e-4)
#: Adapters of rank 16 learn at ten times the rate of whole weights: at the same rate they barely forget.
_LORA_FACTOR = 10
_METRICS = ("probability", "rouge_l", "truth_ratio", "probability_normalized", "forget_quality", "model_utility")
_HEAD = ("recipe", "lr", "forget quality (p)", "probability", "ROUGE-L", "truth ratio", "utility", "CPU s")


@dataclass(frozen=True)
class RecipeResult:
    """One recipe after tuning, measured on all rows."""

    name: str
    lr: float | None
    report: dict[str, Any] | None
    cpu_seconds: float
    failure: str = ""
    trials: tuple[LearningRateTrial, ...] = ()


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done yet, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--split", choices=get_args(Split), default="forget10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--others", nargs="*", choices=OTHER_RECIPES, default=list(OTHER_RECIPES))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="learning rates tried")
    parser.add_argument("--steps", type=int, default=Budget().steps, help="optimizer steps of a trial")
    parser.add_argument("--whole", action="store_true", help="measure what was chosen on more rows than trials are")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=args.size != "tiny")
    budget = replace(Budget(), steps=args.steps, learning_rates=tuple(args.rates))
    models = build_models(steps, SIZES[args.size], args.split, seed=args.seed)
    specs = _specs(args, budget)
    log = evaluate_retrained_model(steps, models, budget, seed=args.seed)
    split = [] if args.split == "forget10" else [args.split]  # trials of tofu_report serve here too
    length = [] if args.steps == Budget().steps else [str(args.steps)]

    def one(name: str) -> RecipeResult:
        step = "-".join([*split, *length, name])
        return _outcome(steps, name, specs[name], models, budget, step=step, log=log, whole=args.whole)

    outcomes = []
    with make_executor(steps) as pool:
        for outcome in pool.map(one, specs):
            outcomes.append(outcome)  # and written after every recipe: a run that is stopped has told what it knows
            text = _text(f"python -m bench.quality {_said(args)}", outcomes, budget)
            write_between(args.results, "_".join(["quality", args.split, *length]), text)


def _specs(args: argparse.Namespace, budget: Budget) -> dict[str, Spec]:
    """Return every recipe by its name."""
    specs: dict[str, Spec] = {}
    for objective in args.objectives:
        for name, optimizer in _OPTIMIZERS.items():
            plain = make_unlearning_spec({"kind": objective}, optimizer, budget, seed=args.seed)
            specs[f"{objective}-{name}"] = plain | _own_settings(objective)
    for name in args.others:
        more = dict(OTHER_RECIPES[name])
        optimizer = more.pop("optimizer")
        if optimizer["kind"] == "influence":  # one static step: no loop, no terms, nothing to tune
            specs[name] = {"kind": "unlearn", "seed": args.seed, "optimizer": optimizer}
        else:
            specs[name] = make_unlearning_spec({"kind": "npo"}, optimizer, budget, seed=args.seed, **more)
    return specs


def _own_settings(objective: str) -> Spec:
    """Return what differs by objective. Losses that are sums over an answer need the heavier retain loss, means do not;
    RMU keeps hidden states, not answers; a model too small to follow an instruction cannot be told to write alternates.
    """
    if objective == "gradient_ascent":
        return {"retain": {"kind": "none"}}  # with a retain loss it is grad_diff
    if objective == "rmu":
        return {"retain": {"kind": "rmu_retain"}}
    if objective == "altpo":
        return {"forget": {"kind": "altpo", "alternates": "constrained", "max_new_tokens": 48}}
    return {} if objective in _SUMMED else {"retain": {"kind": "nll"}}


def _outcome(
    steps: Steps, name: str, spec: Spec, models: TofuModels, budget: Budget, *, step: str, log: Path, whole: bool
) -> RecipeResult:
    """Tune a recipe; with `whole` measure the chosen one on more rows. Influence has no learning rate to tune. Its
    trials' names begin with `step`.
    """
    if spec["optimizer"]["kind"] == "influence":
        budget = replace(budget, learning_rates=(0.0,))
    if "lora" in spec:
        budget = replace(budget, learning_rates=tuple(lr * _LORA_FACTOR for lr in budget.learning_rates))
    try:
        tuned = tune(steps, step, spec, models, budget, log=log)
        out = tuned.best.out
        if whole:
            job = EngineRun(
                _measured(tuned.spec, budget), models.target, _sets(models), {"retrained": models.retrained}
            )
            out = run_engine_once(steps, f"quality-{step}", job)
    except EngineFailure as failure:
        steps.say(f"{name}: {failure}")
        return RecipeResult(name, None, None, 0.0, failure.code)
    if out is None:
        return RecipeResult(name, None, None, 0.0, "diverged")
    return RecipeResult(name, tuned.best.lr, load_report(out), load_run_seconds(out)["cpu"], trials=tuned.trials)


def _sets(models: TofuModels) -> dict[str, Path]:
    return {name: path for name, path in models.tofu.evaluation_sets.items() if name not in {"general", "holdout"}}


def _measured(spec: Spec, budget: Budget) -> Spec:
    return {
        **spec,
        "attacks": [],
        "criteria": [],
        "evaluation": {
            "metrics": _METRICS,
            "max_examples": budget.report_rows,
            "max_new_tokens": budget.max_new_tokens,
            "num_answer_samples": 0,
        },
    }


def _text(command: str, outcomes: list[RecipeResult], budget: Budget) -> str:
    measured = next((one.report for one in outcomes if one.report), None)
    rows: list[list[str | float | None]] = []
    if measured:
        rows += [[f"**{name}**", "", *_values(measured, model), None] for name, model in _YARDSTICKS]
    for one in outcomes:
        values = _values(one.report, "unlearned") if one.report else [one.failure, *[None] * 4]
        rows.append([one.name, one.lr and f"{one.lr:g}", *values, one.cpu_seconds])
    rates = ", ".join(f"{lr:g}" for lr in budget.learning_rates)
    note = (
        f"Tuned by {len(budget.learning_rates)} trials each (learning rates {rates}; for adapters times "
        f"{_LORA_FACTOR}) of {budget.steps} steps of {budget.batch} forget rows beside "
        f"{budget.batch} retain rows, measured on {budget.trial_rows} rows a set; chosen by forget quality among those "
        f"that keep {MIN_UTILITY_FRACTION:.0%} of the target's utility, else by utility. CPU "
        f"seconds: training and measuring "
        "of the run behind the line."
    )
    better, worse = (_beaten(outcomes, *pair) for pair in (("sophia", "adamw"), ("adamw", "sophia")))
    note += (
        f"\n\nTrials of one objective side by side: some trial by Sophia both forgets more (probability) and keeps at "
        f"least as much utility as some trial by AdamW under {_named(better)}; the other way round under "
        f"{_named(worse)}."
    )
    return f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}\n\n{note}"


_YARDSTICKS = (("target", "base"), ("retrained", "retrained"))


def _values(report: dict[str, Any], model: str) -> list[str | float | None]:
    forget = [
        get_metric_value(report, model, "forget", m)
        for m in ("forget_quality", "probability", "rouge_l", "truth_ratio")
    ]
    return [*forget, get_metric_value(report, model, "all", "model_utility")]


def _beaten(outcomes: list[RecipeResult], first: str, second: str) -> list[str]:
    """Return the recipes of which a trial by the first optimizer beats one by the second on both counts."""
    trials = {one.name: one.trials for one in outcomes}
    recipes = [name.removesuffix(f"-{first}") for name in trials if name.endswith(f"-{first}")]
    return [
        recipe
        for recipe in recipes
        if any(beats(a, b) for a in trials[f"{recipe}-{first}"] for b in trials.get(f"{recipe}-{second}", ()))
    ]


def beats(trial: LearningRateTrial, other: LearningRateTrial) -> bool:
    """Say whether a trial forgot more than another and kept at least as much; one that diverged beats none."""
    a, b = (trial.forget_probability, trial.utility), (other.forget_probability, other.utility)
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    return a[0] < b[0] and a[1] >= b[1]


def _named(recipes: list[str]) -> str:
    return f"{len(recipes)} ({', '.join(recipes)})" if recipes else "none"


def _said(args: argparse.Namespace) -> str:
    words = [f"--size {args.size}", f"--split {args.split}", f"--steps {args.steps}"]
    if args.objectives != list(OBJECTIVES):
        words.append("--objectives " + " ".join(args.objectives))
    if args.others != list(OTHER_RECIPES):
        words.append(" ".join(["--others", *args.others]))
    if tuple(args.rates) != RATES:
        words.append("--rates " + " ".join(f"{rate:g}" for rate in args.rates))
    if args.whole:
        words.append("--whole")
    return " ".join(words)


if __name__ == "__main__":
    main()
