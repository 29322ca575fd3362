"""Compares every objective by first and by second order on TOFU, tuned with the same budget of trials; in addition,
influence unlearning and LoRA. `python -m bench.quality` resumes where it was stopped and writes every result.
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
#: Objectives that sum the log-probabilities of an answer.
_SUMMED = {"npo", "dpo", "altpo"}
_OPTIMIZERS = {"adamw": FIRST_ORDER, "sophia": SECOND_ORDER}
#: In addition to the objectives: one static step, and adapters instead of all weights.
OTHER_RECIPES: dict[str, Spec] = {
    "influence": {"strategy": {"kind": "influence"}},
    "npo-lora-adamw": {"optimizer": FIRST_ORDER, "lora": {"rank": 16}},
    "npo-lora-sophia": {"optimizer": SECOND_ORDER, "lora": {"rank": 16}},
}
#: Learning rates of a recipe's trials. At the larger rates of `tofu_report`, only NPO kept a useful model.
RATES = (1e-4, 3e-4)
#: Adapters of rank 16 need ten times the learning rate of all weights: at the same rate they barely forget.
_LORA_FACTOR = 10
_METRICS = ("probability", "rouge_l", "truth_ratio", "probability_normalized", "forget_quality", "model_utility")
_HEAD = ("recipe", "lr", "forget quality (p)", "probability", "ROUGE-L", "truth ratio", "utility", "CPU s")


@dataclass(frozen=True)
class RecipeResult:
    """One tuned recipe, with its report and its trials."""

    name: str
    lr: float | None
    report: dict[str, Any] | None
    cpu_seconds: float
    failure: str = ""
    trials: tuple[LearningRateTrial, ...] = ()


def main(arguments: list[str] | None = None) -> None:
    """Run the remaining steps, and write the table after every recipe."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--split", choices=get_args(Split), default="forget10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--others", nargs="*", choices=OTHER_RECIPES, default=list(OTHER_RECIPES))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="learning rates tried")
    parser.add_argument("--steps", type=int, default=Budget().steps, help="optimizer steps of a trial")
    parser.add_argument("--whole", action="store_true", help="measure the best trial again on more rows")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=args.size != "tiny")
    budget = replace(Budget(), steps=args.steps, learning_rates=tuple(args.rates))
    models = build_models(steps, SIZES[args.size], args.split, seed=args.seed)
    specs = _make_specs(args, budget)
    log = evaluate_retrained_model(steps, models, budget, seed=args.seed)
    split = [] if args.split == "forget10" else [args.split]  # the steps of tofu_report are reused
    length = [] if args.steps == Budget().steps else [str(args.steps)]

    def run_recipe(name: str) -> RecipeResult:
        step = "-".join([*split, *length, name])
        return _tune_recipe(steps, name, specs[name], models, budget, step=step, log=log, whole=args.whole)

    results = []
    with make_executor(steps) as pool:
        for result in pool.map(run_recipe, specs):
            results.append(result)
            text = _make_text(f"python -m bench.quality {_format_arguments(args)}", results, budget)
            write_between(args.results, "_".join(["quality", args.split, *length]), text)


def _make_specs(args: argparse.Namespace, budget: Budget) -> dict[str, Spec]:
    """Return recipe name -> spec."""
    specs: dict[str, Spec] = {}
    for objective in args.objectives:
        for name, optimizer in _OPTIMIZERS.items():
            spec = make_unlearning_spec({"kind": objective}, optimizer, budget, seed=args.seed)
            specs[f"{objective}-{name}"] = spec | _get_objective_settings(objective)
    for name in args.others:
        settings = dict(OTHER_RECIPES[name])
        if "strategy" in settings:  # one static step: no loop, no terms, nothing to tune
            specs[name] = {"kind": "unlearn", "seed": args.seed, **settings}
        else:
            optimizer = settings.pop("optimizer")
            specs[name] = make_unlearning_spec({"kind": "npo"}, optimizer, budget, seed=args.seed, **settings)
    return specs


def _get_objective_settings(objective: str) -> Spec:
    """Return the settings of one objective.

    Losses that are sums over an answer need the larger weight of the retain loss, means do not. RMU retains hidden
    states, not answers. The model is too small to follow an instruction, so alternative answers are constrained.
    """
    if objective == "gradient_ascent":
        return {"retain": {"kind": "none"}}  # with a retain loss it is grad_diff
    if objective == "rmu":
        return {"retain": {"kind": "rmu_retain"}}
    if objective == "altpo":
        return {"forget": {"kind": "altpo", "alternates": "constrained", "max_new_tokens": 48}}
    return {} if objective in _SUMMED else {"retain": {"kind": "nll"}}


def _tune_recipe(
    steps: Steps, name: str, spec: Spec, models: TofuModels, budget: Budget, *, step: str, log: Path, whole: bool
) -> RecipeResult:
    """Tune a recipe and return its best trial.

    Args:
        steps: where trials are run; influence has one, since it has no learning rate.
        name: name of the recipe.
        spec: spec of the recipe.
        models: models and datasets.
        budget: learning rates and lengths.
        step: prefix of the trials' step names.
        log: measurements of the retrained model.
        whole: measure the best trial again on more rows.
    """
    if "strategy" in spec:
        budget = replace(budget, learning_rates=(0.0,))
    if "lora" in spec:
        budget = replace(budget, learning_rates=tuple(lr * _LORA_FACTOR for lr in budget.learning_rates))
    try:
        tuned = tune(steps, step, spec, models, budget, log=log)
        out = tuned.best.out
        if whole:
            evaluation = {
                "metrics": _METRICS,
                "max_examples": budget.report_rows,
                "max_new_tokens": budget.max_new_tokens,
                "num_answer_samples": 0,
            }
            sets = models.tofu.evaluation_sets
            job = EngineRun(
                {**tuned.spec, "attacks": [], "criteria": [], "evaluation": evaluation},
                models.target,
                {name: path for name, path in sets.items() if name not in {"general", "holdout"}},
                {"retrained": models.retrained},
            )
            out = run_engine_once(steps, f"quality-{step}", job)
    except EngineFailure as failure:
        steps.say(f"{name}: {failure}")
        return RecipeResult(name, None, None, 0.0, failure.code)
    if out is None:
        return RecipeResult(name, None, None, 0.0, "diverged")
    return RecipeResult(name, tuned.best.lr, load_report(out), load_run_seconds(out)["cpu"], trials=tuned.trials)


def _make_text(command: str, results: list[RecipeResult], budget: Budget) -> str:
    report = next((result.report for result in results if result.report), None)
    rows: list[list[str | float | None]] = []
    if report:
        for name, model in (("target", "base"), ("retrained", "retrained")):
            rows.append([f"**{name}**", "", *_get_values(report, model), None])
    for result in results:
        values = _get_values(result.report, "unlearned") if result.report else [result.failure, *[None] * 4]
        rows.append([result.name, result.lr and f"{result.lr:g}", *values, result.cpu_seconds])
    rates = ", ".join(f"{lr:g}" for lr in budget.learning_rates)
    note = (
        f"Tuned by {len(budget.learning_rates)} trials each (learning rates {rates}; for adapters times "
        f"{_LORA_FACTOR}) of {budget.steps} steps of {budget.batch} forget rows and {budget.batch} retain rows, "
        f"measured on {budget.trial_rows} rows per set; chosen by forget quality among those that keep "
        f"{MIN_UTILITY_FRACTION:.0%} of the target's utility, else by utility. CPU seconds: training and measuring "
        "of the run in the line."
    )
    better, worse = (_list_beaten(results, *pair) for pair in (("sophia", "adamw"), ("adamw", "sophia")))
    note += (
        "\n\nTrials of the same objective: some trial by Sophia both forgets more (probability) and keeps at least as "
        f"much utility as some trial by AdamW under {_format_recipes(better)}; the reverse under "
        f"{_format_recipes(worse)}."
    )
    return f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}\n\n{note}"


def _get_values(report: dict[str, Any], model: str) -> list[str | float | None]:
    metrics = ("forget_quality", "probability", "rouge_l", "truth_ratio")
    forget_values = [get_metric_value(report, model, "forget", metric) for metric in metrics]
    return [*forget_values, get_metric_value(report, model, "all", "model_utility")]


def _list_beaten(results: list[RecipeResult], first: str, second: str) -> list[str]:
    """Return the objectives of which some trial by the first optimizer beats some trial by the second."""
    trials = {result.name: result.trials for result in results}
    recipes = [name.removesuffix(f"-{first}") for name in trials if name.endswith(f"-{first}")]
    return [
        recipe
        for recipe in recipes
        if any(beats(a, b) for a in trials[f"{recipe}-{first}"] for b in trials.get(f"{recipe}-{second}", ()))
    ]


def beats(trial: LearningRateTrial, other: LearningRateTrial) -> bool:
    """Return whether a trial forgets more than another and keeps at least as much; one that diverged beats none."""
    a, b = (trial.forget_probability, trial.utility), (other.forget_probability, other.utility)
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    return a[0] < b[0] and a[1] >= b[1]


def _format_recipes(recipes: list[str]) -> str:
    return f"{len(recipes)} ({', '.join(recipes)})" if recipes else "none"


def _format_arguments(args: argparse.Namespace) -> str:
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
