"""Whose curvature should precondition the step: that of the rows to forget, to keep, or both? Sophia with NPO on TOFU.
`python -m bench.curvature_data` writes what came out into decision 5.
"""

import argparse
from pathlib import Path

from bench.engine import Job, lanes, report_of, run_job
from bench.recipes import MEASURED, SECOND_ORDER, Budget, Spec, of_trials, unlearning, value_of, yardstick
from bench.steps import Steps
from bench.tables import measured_with, table, write_between
from bench.tofu_model import SIZES, WORK, Models, build
from bench.tofu_report import DOCS

_DATA = ("forget", "retain", "both")
_SEEDS = (0, 1)
_HEAD = ("curvature of", "seed", "lr", "forget quality (p)", "forget probability", "ROUGE-L", "utility", "unclipped")


def main(arguments: list[str] | None = None) -> None:
    """Run each setting with each seed, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.curvature_data", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help=f"work folder (default: ./{WORK})")
    parser.add_argument("--size", choices=SIZES, default="short")
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4], help="learning rates")
    parser.add_argument("--results", type=Path, default=DOCS / "decisions" / "0005-curvature-data.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve(), apart=args.size != "tiny")
    models = build(steps, SIZES[args.size])
    settings = [(data, seed, lr) for lr in args.rates for data in _DATA for seed in _SEEDS]
    for seed in _SEEDS:
        yardstick(steps, models, Budget(), seed=seed)  # once, before two lanes ask for it
    with lanes(steps) as pool:
        rows = list(pool.map(lambda one: _row(steps, models, *one), settings))
    rates = " ".join(f"{lr:g}" for lr in args.rates)
    command = f"python -m bench.curvature_data --size {args.size} --rates {rates}"
    write_between(args.results, "curvature_data", f"{measured_with(command)}\n\n{table(_HEAD, rows)}")


def _row(steps: Steps, models: Models, data: str, seed: int, lr: float) -> list[str | float | None]:
    budget = Budget()
    optimizer: Spec = {**SECOND_ORDER, "lr": lr, "curvature": {"kind": "gnb", "data": data}}
    spec = unlearning({"kind": "npo"}, optimizer, budget, seed=seed)
    spec |= {"attacks": [], "criteria": [], "evaluation": of_trials(budget)}
    sets = {name: models.tofu.measured[name] for name in MEASURED}
    log = yardstick(steps, models, budget, seed=seed)
    job = Job(spec, models.target, sets, model_name="tofu-target", reference_log=log)
    report = report_of(run_job(steps, f"curvature-{data}-{seed}-{lr:g}", job))
    unclipped = [value for value in report["run"]["curves"]["unclipped_fraction"] if value is not None]
    return [
        data,
        str(seed),
        f"{lr:g}",
        *(value_of(report, "unlearned", "forget", metric) for metric in ("forget_quality", "probability", "rouge_l")),
        value_of(report, "unlearned", "all", "model_utility"),
        sum(unclipped) / len(unclipped),
    ]


if __name__ == "__main__":
    main()
