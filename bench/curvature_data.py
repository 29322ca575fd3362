"""Compares the rows whose curvature preconditions the step: forget set, retain set, or both. Sophia with NPO on TOFU.
`python -m bench.curvature_data` writes the results into decision 5.
"""

import argparse
from pathlib import Path

from bench.engine import EngineRun, load_report, make_executor, run_engine_once
from bench.recipes import (
    EVALUATION_SET_NAMES,
    SECOND_ORDER,
    Budget,
    Spec,
    evaluate_retrained_model,
    get_metric_value,
    make_trial_evaluation,
    make_unlearning_spec,
)
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_model import SIZES, WORK_FOLDER, TofuModels, build_models
from bench.tofu_report import DOCS_FOLDER

_DATA = ("forget", "retain", "both")
_SEEDS = (0, 1)
_HEAD = ("curvature of", "seed", "lr", "forget quality (p)", "forget probability", "ROUGE-L", "utility", "unclipped")


def main(arguments: list[str] | None = None) -> None:
    """Run each setting with each seed, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.curvature_data", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4], help="learning rates")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "decisions" / "0005-curvature-data.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), use_subprocess=args.size != "tiny")
    models = build_models(steps, SIZES[args.size])
    settings = [(data, seed, lr) for lr in args.rates for data in _DATA for seed in _SEEDS]
    for seed in _SEEDS:
        evaluate_retrained_model(steps, models, Budget(), seed=seed)  # once, before two threads need it
    with make_executor(steps) as pool:
        rows = list(pool.map(lambda setting: _make_row(steps, models, *setting), settings))
    rates = " ".join(f"{lr:g}" for lr in args.rates)
    command = f"python -m bench.curvature_data --size {args.size} --rates {rates}"
    write_between(args.results, "curvature_data", f"{describe_run(command)}\n\n{format_table(_HEAD, rows)}")


def _make_row(steps: Steps, models: TofuModels, data: str, seed: int, lr: float) -> list[str | float | None]:
    budget = Budget()
    optimizer: Spec = {**SECOND_ORDER, "lr": lr, "curvature": {"kind": "gnb", "data": data}}
    spec = make_unlearning_spec({"kind": "npo"}, optimizer, budget, seed=seed)
    spec |= {"attacks": [], "criteria": [], "evaluation": make_trial_evaluation(budget)}
    sets = {name: models.tofu.evaluation_sets[name] for name in EVALUATION_SET_NAMES}
    log = evaluate_retrained_model(steps, models, budget, seed=seed)
    job = EngineRun(spec, models.target, sets, model_name="tofu-target", retrained_log=log)
    report = load_report(run_engine_once(steps, f"curvature-{data}-{seed}-{lr:g}", job))
    unclipped = [value for value in report["run"]["curves"]["unclipped_fraction"] if value is not None]
    return [
        data,
        str(seed),
        f"{lr:g}",
        *(
            get_metric_value(report, "unlearned", "forget", metric)
            for metric in ("forget_quality", "probability", "rouge_l")
        ),
        get_metric_value(report, "unlearned", "all", "model_utility"),
        sum(unclipped) / len(unclipped),
    ]


if __name__ == "__main__":
    main()
