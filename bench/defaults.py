"""What a first job does without any setting: five forget sets, the model, and nothing else, as `soul submit --model M
--forget F` sends them. `python -m bench.defaults` resumes, and writes each verdict with its reason.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bench.engine import EngineFailure, EngineRun, load_report, load_run_seconds, run_engine_once
from bench.pretrained_data import Task, make_tasks
from bench.pretrained_model import build_target, choose_fast_dtype, write_rows
from bench.recipes import get_metric_value
from bench.steps import Steps
from bench.tables import describe_run, format_table, write_between
from bench.tofu_model import WORK_FOLDER
from bench.tofu_report import DOCS_FOLDER

_HEAD = ("forget set", "rows", "verdict", "forget p", "recall", "held out p", "unseen p", "general", "steps", "CPU s")


def main(arguments: list[str] | None = None) -> None:
    """Run the jobs that are not done, and write the table after every one."""
    parser = argparse.ArgumentParser(prog="python -m bench.defaults", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK_FOLDER, help=f"work folder (default: ./{WORK_FOLDER})")
    parser.add_argument("--tasks", nargs="+", default=["people", "famous", "book", "toxic", "authors"])
    parser.add_argument("--with-retain", action="store_true", help="give each job its retain set as well")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON in the last line")
    parser.add_argument("--results", type=Path, default=DOCS_FOLDER / "reference" / "results.md")
    args = parser.parse_args(arguments)
    steps, tasks = Steps(args.work.resolve()), make_tasks()
    target, dtype = build_target(steps, tasks), choose_fast_dtype(steps)
    mark = "defaults_with_retain" if args.with_retain else "defaults"
    reports: dict[str, dict[str, Any]] = {}
    for name in args.tasks:
        job = _make_job(steps, tasks[name], target, dtype, with_retain=args.with_retain)
        try:
            out = run_engine_once(steps, f"{mark}-{name}", job)
        except EngineFailure as failure:
            steps.say(f"{name}: {failure}")
            continue
        reports[name] = load_report(out) | {"cpu_seconds": load_run_seconds(out)["cpu"]}
        command = "python -m bench.defaults" + (" --with-retain" if args.with_retain else "")
        write_between(args.results, mark, f"{describe_run(command)}\n\n{format_reports(reports)}")
    print(format_reports(reports))
    if args.json:
        print(json.dumps({name: report["verdict"] for name, report in reports.items()}))


def _make_job(steps: Steps, task: Task, target: Path, dtype: str, *, with_retain: bool) -> EngineRun:
    """Return the job of one task. `unseen` is measured for this table; no default criterion reads it."""
    folder = steps.work / "data"
    sets = {"forget": task.forget, "unseen": task.unseen} | ({"retain": task.retain} if with_retain else {})
    paths = {name: write_rows(folder / f"defaults-{task.name}-{name}.jsonl", rows) for name, rows in sets.items()}
    spec = {"dtype": dtype}  # what `auto` should choose on this machine; everything else is the default
    return EngineRun(spec, target, paths, model_name="target", threads=os.cpu_count() or 1)


def format_reports(reports: dict[str, dict[str, Any]]) -> str:
    """Return a table with a line per job, and the reason of every verdict."""
    rows: list[list[str | float | None]] = []
    for name, report in reports.items():
        num_rows = next(data["num_rows"] for data in report["data"] if data["name"] == "forget")
        rows.append(
            [
                name,
                num_rows,
                report["verdict"],
                _format_change(report, "forget", "probability"),
                _format_change(report, "forget", "keyword_recall"),
                _format_change(report, "retain_held_out", "probability"),
                _format_change(report, "unseen", "probability"),
                _format_change(report, "general", "perplexity"),
                report["run"]["steps"],
                report["cpu_seconds"],
            ]
        )
    reasons = [f"- **{name}**: {report['verdict_reason']}" for name, report in reports.items()]
    return "\n".join([format_table(_HEAD, rows), "", *reasons])


def _format_change(report: dict[str, Any], name: str, metric: str) -> str | None:
    before, after = (get_metric_value(report, model, name, metric) for model in ("base", "unlearned"))
    return None if before is None or after is None else f"{before:.3g} → {after:.3g}"


if __name__ == "__main__":
    main()
