"""Predicted against seen cost of a few tiny jobs on a real service: `python -m bench.estimates`.

Starts the service on a database of its own, runs the jobs one after the other, and asks for an estimate before each.
The first job is predicted by constants, every other one by what the jobs before it took.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.capitals import COUNTRIES, answer, question
from bench.tables import format_table
from bench.tiny_architectures import save_tiny
from soul_cli.client import SoulClient
from soul_cli.demo_service import run_private_service

#: Steps of each job: some are repeated, some are longer than all before them.
STEPS = (20, 20, 20, 80, 20, 80, 160, 20, 80, 160)


def main(arguments: list[str] | None = None) -> None:
    """Run the jobs and print the table; with --json the last line is the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimates", description=__doc__)
    parser.add_argument("--jobs", type=int, default=len(STEPS), help=f"number of jobs (default: {len(STEPS)})")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON in the last line")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soul-estimates-") as folder:
        rows = run_jobs(Path(folder), STEPS[: args.jobs])
    header = (
        "steps",
        "based on",
        "predicted s",
        "low",
        "high",
        "seen s",
        "inside",
        "predicted MiB",
        "seen MiB",
        "inside",
    )
    print(format_table(header, [[_format(value) for value in row.values()] for row in rows]))
    if args.json:
        print(json.dumps(rows))


def run_jobs(folder: Path, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """Run one job for each number of steps; return what was predicted before it, and what was seen."""
    model = save_tiny("Llama", folder / "model")
    with (
        run_private_service(folder / "service", model_roots=[folder]) as connection,
        SoulClient(connection.url, connection.key) as client,
    ):
        countries = list(COUNTRIES)
        datasets = {
            name: client.add_dataset(_write_rows(folder / f"{name}.jsonl", part)).id
            for name, part in {"forget": countries[:3], "retain": countries[3:]}.items()
        }
        model_id = client.add_model("local", str(model)).id
        return [_run_job(client, model_id, datasets, num_steps) for num_steps in steps]


def _format(value: Any) -> Any:
    return ("no", "yes")[value] if isinstance(value, bool) else value


def _write_rows(path: Path, countries: list[str]) -> Path:
    rows = ({"prompt": question(country), "completion": answer(country)} for country in countries)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _run_job(client: SoulClient, model_id: str, datasets: dict[str, str], num_steps: int) -> dict[str, Any]:
    spec = {"training": {"steps": num_steps}, "evaluation": {"max_new_tokens": 8}, "attacks": [{"kind": "quantize"}]}
    body: dict[str, Any] = {"model_id": model_id, "datasets": datasets, "spec": spec}
    estimated = client.estimate(**body)
    job = client.wait(client.submit(**body).id)
    if job.status != "succeeded":
        raise RuntimeError(f"job {job.id} ended as {job.status}: {job.status_reason}")
    seconds, memory_bytes = job.usage["engine_seconds"], client.get_report(job.id)["run"]["peak_memory_bytes"]
    assert estimated.based_on is not None
    assert estimated.seconds_interval is not None
    assert estimated.peak_memory_bytes is not None
    assert estimated.peak_memory_bytes_interval is not None
    low, high = estimated.seconds_interval
    lowest_bytes, highest_bytes = estimated.peak_memory_bytes_interval
    return {
        "steps": num_steps,
        "based_on": f"{estimated.based_on.source}, {estimated.based_on.num_jobs} jobs",
        "predicted_seconds": estimated.seconds,
        "low_seconds": low,
        "high_seconds": high,
        "seen_seconds": round(seconds, 1),
        "time_inside": low <= seconds <= high,
        "predicted_mib": round(estimated.peak_memory_bytes / 2**20, 1),
        "seen_mib": round(memory_bytes / 2**20, 1),
        "memory_inside": lowest_bytes <= memory_bytes <= highest_bytes,
    }


if __name__ == "__main__":
    main()
