"""Measures the time of TOFU's complete evaluation of SmolLM2-135M, with attacks: `python -m bench.evaluation_time`.

The model is not trained on TOFU: only the seconds have a meaning here, not the scores.
"""

import argparse
import os
from pathlib import Path

from bench.engine import EngineRun, load_report, load_run_seconds, run_engine_once
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_data import write_tofu
from bench.tofu_model import WORK_FOLDER
from bench.tofu_report import DOCS_FOLDER, METRICS
from soul_cli.demo_model import fetch_model, get_cache_folder


def main(arguments: list[str] | None = None) -> None:
    """Evaluate, or read the result of an earlier start, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation_time", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--rows", type=int, help="maximum number of rows of each set (default: all of TOFU's)")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps = Steps(args.work.resolve())
    tofu = write_tofu(steps.work / "data-evaluation", num_retain_rows=400)  # the retain rows that TOFU evaluates
    spec = {
        "kind": "evaluate",
        "evaluation": {"metrics": METRICS, **({"max_examples": args.rows} if args.rows else {})},
    }
    model = fetch_model(get_cache_folder())
    job = EngineRun(spec, model, tofu.evaluation_sets, model_name="SmolLM2-135M-Instruct", threads=os.cpu_count() or 1)
    out = run_engine_once(steps, f"evaluation-time-{args.rows or 'all'}", job)
    command = "python -m bench.evaluation_time" + (f" --rows {args.rows}" if args.rows else "")
    write_between(args.results, "evaluation_time", f"{describe_run(command)}\n\n{_make_table(out, args.rows)}")


def _make_table(out: Path, max_rows: int | None) -> str:
    report = load_report(out)
    lines = [(f"phase {name}", seconds) for name, seconds in report["run"]["seconds"].items()]
    lines += [(f"of it: {attack['label']}", attack["seconds"]) for attack in report["attacks"]]
    run_seconds = load_run_seconds(out)
    lines += [("all, wall", run_seconds["wall"]), ("all, CPU", run_seconds["cpu"])]
    counts = ", ".join(
        f"{data['name']} {min(data['num_rows'], max_rows or data['num_rows'])}" for data in report["data"]
    )
    note = (
        "" if max_rows is None else f" At most {max_rows} rows per set: NOT the complete evaluation, not extrapolated."
    )
    return format_table(("what", "seconds"), lines) + f"\n\nRows measured: {counts}.{note}"


if __name__ == "__main__":
    main()
