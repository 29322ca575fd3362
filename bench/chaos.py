"""`python -m bench.chaos --kills 20 --seed 1 --json`: processes are killed at random during jobs and uploads.

A real `soul serve` runs jobs of a tiny model while data sets are uploaded. Seeded kills (SIGKILL) hit any of its
processes: supervisor, API, worker, pool child, engine, maintenance process, broker (also with its files deleted),
database and its backends. In between all connections of the database are taken, and the disk is full, where a small
file system can be mounted. A second worker has a clock that is an hour ahead, where a C compiler can build the library
for that.

Afterwards: no job lost, doubled or different (its weights have the digest of an undisturbed run), no acknowledged
upload lost, no process, file, row or message left over. Exit code 1 if anything of that does not hold.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.capitals import COUNTRIES, answer, question
from bench.chaos_checks import WEIGHTS, check_jobs, check_leftovers, check_uploads, list_temporary_files
from bench.chaos_faults import Faults, mount_small_disk, unmount
from bench.chaos_service import ServiceUnderTest, build_clock_library
from soul_cli.client import SoulClient
from soul_cli.embedded.ports import find_free_port
from soul_cli.errors import SoulError

#: Kinds of job: seeds of their specs.
SPEC_SEEDS = {"first": 1, "second": 2}
_END_SECONDS = 600.0
_DISK_BYTES = 3 << 30
_UPLOAD_ROWS = 20_000


@dataclass(frozen=True)
class ChaosPlan:
    """What a run of the program does."""

    kills: int = 20
    jobs: int = 6
    seed: int = 0
    fill_disk: bool = True
    shift_clock: bool = True


@dataclass
class Uploads:
    """Uploads one data set after the other until it is stopped, and remembers which were acknowledged."""

    connect: Callable[[], SoulClient]
    path: Path
    random: random.Random
    acknowledged: dict[str, str] = field(default_factory=dict)
    num_failed: int = 0

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(0.5):
            number += 1
            name = f"chaos upload {number}"
            rows = [{"prompt": f"Row {number}.{row}?", "completion": "x" * 20} for row in range(_UPLOAD_ROWS)]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            try:
                with self.connect() as client:
                    client.add_dataset(self.path, name=name)
            except SoulError:
                self.num_failed += 1
            else:
                self.acknowledged[name] = hashlib.sha256(self.path.read_bytes()).hexdigest()


def run_chaos(
    plan: ChaosPlan,
    *,
    environment: Mapping[str, str] | None = None,
    logs: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the service through the faults; return what was done and what was found. `ok` is the verdict.

    Args:
        plan: What to do.
        environment: Further variables of the service.
        logs: Folder for a copy of the service's logs.
        say: Called with each line about the progress.
    """
    started_at, skipped = time.monotonic(), []
    folder = Path(tempfile.mkdtemp(prefix="soul-chaos-"))
    folder.chmod(0o711)
    disk = folder if plan.fill_disk and mount_small_disk(folder, num_bytes=_DISK_BYTES) else None
    clock_library = build_clock_library(folder) if plan.shift_clock else None
    skipped += ["disk full: no file system could be mounted"] if disk is None else []
    skipped += ["clock moved: its library could not be built"] if clock_library is None else []
    service = ServiceUnderTest(folder, find_free_port(), environment or {}, clock_library)
    try:
        _make_model(folder / "models" / "tiny")
        outcome = _disturb_service(service, plan, disk, say)
        service.stop()
        outcome["left"] |= {
            "processes": service.list_leftover_processes(),
            "temporary": list_temporary_files(service),
        }
    finally:
        service.stop()
        if logs is not None:
            service.copy_logs(logs)
        if disk is not None:
            unmount(disk)
        shutil.rmtree(folder, ignore_errors=True)
    outcome["ok"] = _is_ok(outcome)
    return {"plan": asdict(plan), "skipped": skipped, **outcome, "seconds": round(time.monotonic() - started_at, 1)}


def _disturb_service(
    service: ServiceUnderTest, plan: ChaosPlan, disk: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run undisturbed jobs for comparison, then the disturbed ones; return the faults and what the checks found."""
    connection = service.wait_until_ready()
    choices = random.Random(plan.seed)

    def connect() -> SoulClient:
        return SoulClient(connection.url, connection.key)

    with connect() as client:
        inputs = _upload_inputs(client, service.folder)
        undisturbed = {
            kind: _get_digest(client, client.wait(_submit(client, inputs, kind, f"undisturbed {kind}")).id)
            for kind in SPEC_SEEDS
        }
    say("undisturbed runs have ended")
    expected: dict[str, str] = {}
    faults = Faults(service, choices, disk, say)
    with Uploads(connect, service.folder / "upload.jsonl", choices) as uploads:
        submitter = threading.Thread(target=_submit_all, args=(connect, inputs, plan.jobs, expected), daemon=True)
        submitter.start()
        faults.run(plan.kills, is_over=lambda: False)
        submitter.join(_END_SECONDS)
    connection = service.wait_until_ready()
    say(f"{faults.kills.total()} kills are over; waiting for the jobs")
    _wait_for_jobs(service, connect)
    time.sleep(1)
    return {
        "kills": dict(sorted(faults.kills.items())),
        "faults": dict(sorted(faults.others.items())),
        "starts_of_the_service": service.num_starts,
        "jobs": check_jobs(service.database_url, expected, undisturbed),
        "uploads": {**check_uploads(service.database_url, uploads.acknowledged), "refused": uploads.num_failed},
        "left": check_leftovers(service),
    }


def _make_model(folder: Path) -> None:
    from bench.tiny_architectures import save_tiny

    folder.parent.mkdir(parents=True)
    save_tiny("Llama", folder)


def _upload_inputs(client: SoulClient, folder: Path) -> dict[str, Any]:
    """Register the model and the two data sets of all jobs."""
    countries = list(COUNTRIES)
    sets = {}
    for name, part in {"forget": countries[:2], "retain": countries[2:]}.items():
        path = folder / f"{name}.jsonl"
        rows = [{"prompt": question(country), "completion": answer(country)} for country in part]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[name] = client.add_dataset(path, name=name).id
    return {"model_id": client.add_model("local", str(folder / "models" / "tiny"), name="tiny").id, "datasets": sets}


def _submit(client: SoulClient, inputs: Mapping[str, Any], kind: str, name: str) -> str:
    spec = {
        "seed": SPEC_SEEDS[kind],
        "optimizer": {"kind": "sophia", "lr": 3e-4},
        "training": {"steps": 40, "checkpoint_every": 5, "stop_at": None},
        "evaluation": {"max_new_tokens": 8},
        "attacks": [],
    }
    return client.submit(**inputs, spec=spec, name=name, idempotency_key=f"chaos {name}").id


def _submit_all(
    connect: Callable[[], SoulClient], inputs: Mapping[str, Any], num_jobs: int, expected: dict[str, str]
) -> None:
    """Submit the jobs, each until it is acknowledged: the same key never makes two."""
    for number in range(1, num_jobs + 1):
        kind = list(SPEC_SEEDS)[number % len(SPEC_SEEDS)]
        name = f"chaos job {number}"
        while name not in expected:
            try:
                with connect() as client:
                    _submit(client, inputs, kind, name)
                expected[name] = kind
            except SoulError:
                time.sleep(0.5)


def _wait_for_jobs(service: ServiceUnderTest, connect: Callable[[], SoulClient]) -> None:
    """Wait until no job is unfinished, at most `_END_SECONDS`; the checks then tell what is."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        service.keep_running()
        try:
            with connect() as client:
                if all(job.status in {"succeeded", "failed", "cancelled"} for job in client.list_jobs()):
                    return
        except SoulError:
            pass
        time.sleep(1)


def _get_digest(client: SoulClient, job_id: str) -> str:
    (weights,) = [artifact for artifact in client.list_artifacts(job_id) if artifact.path == WEIGHTS]
    return weights.sha256


def _is_ok(outcome: Mapping[str, Any]) -> bool:
    """Return whether all that must be empty is empty."""
    counted = {"submitted", "attempts"}
    problems = [value for name, value in outcome["jobs"].items() if name not in counted]
    problems += [outcome["uploads"]["lost"], *outcome["left"].values()]
    return not any(problems)


def main(arguments: list[str] | None = None) -> int:
    """Run, print the result, and return 0 if nothing was lost, doubled, different or left over."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="processes to kill")
    parser.add_argument("--jobs", type=int, default=6, help="jobs to submit meanwhile")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is killed when")
    parser.add_argument("--no-disk", action="store_true", help="do not fill the disk")
    parser.add_argument("--no-clock", action="store_true", help="do not run a worker whose clock is wrong")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="copy the logs of the service to this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    plan = ChaosPlan(options.kills, options.jobs, options.seed, not options.no_disk, not options.no_clock)
    result = run_chaos(plan, logs=options.logs, say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
