"""Recipes and how they are tuned: a few learning rates, one criterion, and the same budget for every recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine import EngineFailure, EngineRun, load_report, load_run_seconds, run_engine_once
from bench.steps import Steps
from bench.tofu_model import TofuModels
from soul_core.outputs.layout import make_log_path
from soul_core.spec import RETRAINED

Spec = dict[str, Any]

FIRST_ORDER: Spec = {"kind": "adamw", "beta2": 0.99}
SECOND_ORDER: Spec = {"kind": "sophia"}
#: The budget of trials: the same learning rates for every recipe.
LEARNING_RATES = (3e-4, 6e-4, 1.2e-3)
#: Weight of the retain loss, a mean per token, against forget losses that sum an answer's 40 tokens. With 1 no trial
#: kept the utility: docs/reference/results.md.
RETAIN_WEIGHT = 20.0
#: A trial is accepted if it keeps this fraction of the target's utility.
MIN_UTILITY_FRACTION = 0.95
#: Metrics that trials are measured by.
TRIAL_METRICS = ("probability", "rouge_l", "truth_ratio", "probability_normalized", "forget_quality", "model_utility")

#: Sets that trials and checks are measured on.
EVALUATION_SET_NAMES = ("forget", "retain", "real_authors", "world_facts")


@dataclass(frozen=True)
class Budget:
    """The length of a recipe's run, and the number of rows that are measured."""

    steps: int = 75
    batch: int = 16
    trial_rows: int = 120
    report_rows: int = 200
    max_new_tokens: int = 80
    learning_rates: tuple[float, ...] = LEARNING_RATES


@dataclass(frozen=True)
class LearningRateTrial:
    """One run of a recipe. `forget_quality` and `utility` decide about it; None: the run diverged."""

    lr: float
    forget_quality: float | None
    utility: float | None
    forget_probability: float | None
    seconds: float
    out: Path | None = None


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe with the best learning rate, and all its trials."""

    spec: Spec
    trials: tuple[LearningRateTrial, ...]
    best: LearningRateTrial


def make_unlearning_spec(forget: Spec, optimizer: Spec, budget: Budget, *, seed: int, **settings: Any) -> Spec:
    """Return the spec of one recipe, with further settings; only its learning rate is tuned."""
    return {
        "kind": "unlearn",
        "seed": seed,
        "forget": forget,
        "retain": {"kind": "nll", "weight": RETAIN_WEIGHT},
        "optimizer": optimizer,
        "data": {"retain_held_out": 0},  # published numbers are of the complete retain set
        "training": {
            "steps": budget.steps,
            "forget_batch": budget.batch,
            "retain_batch": budget.batch,
            "schedule": "linear",
            "warmup_steps": 5,
            "checkpoint_every": 50,
        },
        **settings,
    }


def tune(steps: Steps, name: str, spec: Spec, models: TofuModels, budget: Budget, *, log: Path) -> TunedRecipe:
    """Try each learning rate and choose by forget quality among those that keep the utility; else by utility.

    Trials are measured on rows drawn by the seed, `trial_rows` per set. `log` holds the measurements of the retrained
    model (`evaluate_retrained_model`).
    """
    trials, base_utility = [], 0.0
    sets = {name: models.tofu.evaluation_sets[name] for name in EVALUATION_SET_NAMES}
    for lr in budget.learning_rates:
        trial_spec = {
            **_set_learning_rate(spec, lr),
            "attacks": [],
            "criteria": [],
            "evaluation": make_trial_evaluation(budget),
        }
        job = EngineRun(trial_spec, models.target, sets, model_name="tofu-target", retrained_log=log)
        try:
            out = run_engine_once(steps, f"trial-{name}-{lr:g}", job)
        except EngineFailure as error:
            if error.code != "diverged":
                raise
            trials.append(LearningRateTrial(lr, None, None, None, 0.0))
            continue
        report = load_report(out)
        base_utility = get_metric_value(report, "base", "all", "model_utility") or base_utility
        trials.append(
            LearningRateTrial(
                lr,
                get_metric_value(report, "unlearned", "forget", "forget_quality"),
                get_metric_value(report, "unlearned", "all", "model_utility"),
                get_metric_value(report, "unlearned", "forget", "probability"),
                load_run_seconds(out)["cpu"],
                out,
            )
        )
    best = choose_trial(trials, MIN_UTILITY_FRACTION * base_utility)
    return TunedRecipe(_set_learning_rate(spec, best.lr), tuple(trials), best)


def _set_learning_rate(spec: Spec, lr: float) -> Spec:
    """Return the spec with a learning rate; 0 stands for one static step, which has none."""
    return {**spec, "optimizer": {**spec["optimizer"], "lr": lr}} if lr else spec


def evaluate_retrained_model(steps: Steps, models: TofuModels, budget: Budget, *, seed: int) -> Path:
    """Measure the retrained model once, with the settings of the trials, and return the path of its log."""
    spec = {"kind": "evaluate", "seed": seed, "attacks": [], "evaluation": make_trial_evaluation(budget)}
    sets = {name: models.tofu.evaluation_sets[name] for name in EVALUATION_SET_NAMES}
    job = EngineRun(spec, models.target, sets, {"retrained": models.retrained}, model_name="tofu-target")
    out = run_engine_once(steps, f"retrained-evaluation-{models.tofu.folder.name}-{seed}", job)
    return out / make_log_path(RETRAINED)


def make_trial_evaluation(budget: Budget) -> dict[str, Any]:
    """Return the spec's `evaluation` for trials."""
    return {
        "metrics": TRIAL_METRICS,
        "max_examples": budget.trial_rows,
        "max_new_tokens": budget.max_new_tokens,
        "num_answer_samples": 0,
        "bootstrap": 0,
        "general_text": [],
    }


def choose_trial(trials: list[LearningRateTrial], floor: float) -> LearningRateTrial:
    """Return the trial with the highest forget quality among those with a utility of at least `floor`; without any, the
    one with the highest utility.
    """
    useful = [trial for trial in trials if (trial.utility or 0) >= floor]
    if useful:
        return max(useful, key=lambda trial: trial.forget_quality or 0)
    return max(trials, key=lambda trial: trial.utility or 0)


def get_metric_value(report: Mapping[str, Any], model: str, set_name: str, metric: str) -> float | None:
    """Return a value of a report; None where it is absent."""
    entry = report["models"].get(model, {}).get("sets", {}).get(set_name, {}).get(metric)
    return entry["value"] if entry else None
