"""Runs the engine as anybody would, `python -m soul_core`, and says what it took."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.steps import StepResult, Steps, compute_path_digest
from soul_core.outputs.layout import REPORT

#: glibc gives large tensors back to the kernel after every use and gets them back zeroed: a fifth of a CPU step.
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
#: Engines that benchmarks run side by side.
MAX_PARALLEL_RUNS = 2
_ROOT = Path(__file__).parents[1]
_SAY_SECONDS = 30.0


class EngineFailure(RuntimeError):
    """The engine left with another code than 0. `code` is what the engine calls the failure."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class EngineRun:
    """One run of the engine: the recipe and what it reads. `also` are models measured beside it; `retrained_log` is
    what an earlier run measured of the retrained one. `threads`: its share of the cores, for benchmarks run two side by
    side, which is faster than one on all of them.
    """

    spec: Mapping[str, Any]
    model: Path
    sets: Mapping[str, Path]
    compared_models: Mapping[str, Path] = field(default_factory=dict)
    model_name: str = "model"
    retrained_log: Path | None = None
    threads: int = max(1, (os.cpu_count() or 1) // MAX_PARALLEL_RUNS)

    def make_key(self) -> dict[str, Any]:
        """Return all that the result depends on, but the code."""
        return {
            "spec": self.spec,
            "model": compute_path_digest(self.model),
            "sets": {name: compute_path_digest(path) for name, path in self.sets.items()},
            "also": {name: compute_path_digest(path) for name, path in self.compared_models.items()},
            **({"retrained_log": compute_path_digest(self.retrained_log)} if self.retrained_log else {}),
        }


def run_engine_once(steps: Steps, name: str, job: EngineRun) -> Path:
    """Run it unless that was done before; return its output folder. Raises EngineFailed."""

    def do(folder: Path) -> StepResult:
        (folder / "spec.json").write_text(json.dumps(job.spec, indent=1))
        run = _run_apart if steps.use_subprocess else _run_here
        return {"seconds": run(folder, job, steps), "command": " ".join(_command(Path(name), job))}

    steps.run_once(name, job.make_key(), do)
    return steps.work / name / "out"


def make_executor(steps: Steps) -> ThreadPoolExecutor:
    """Return what runs jobs side by side; one after the other inside this process, where loading is not thread-safe."""
    return ThreadPoolExecutor(MAX_PARALLEL_RUNS if steps.use_subprocess else 1)


def load_report(out: Path) -> dict[str, Any]:
    """Return the report in an output folder."""
    return dict(json.loads((out / REPORT).read_text()))


def load_run_seconds(out: Path) -> dict[str, float]:
    """Return wall and CPU seconds of the run behind an output folder: of its last start, if it was interrupted."""
    return dict(json.loads((out.parent / "step.json").read_text())["seconds"])


def _run_here(folder: Path, job: EngineRun, steps: Steps) -> dict[str, float]:
    """Run inside this process: without the seconds that a new one takes to import torch."""
    from soul_core.errors import EngineError
    from soul_core.run import RunInputs, run
    from soul_core.spec import JobSpec

    started, cpu = time.monotonic(), time.process_time()
    models = {name: str(path) for name, path in job.compared_models.items()}
    inputs = RunInputs(
        str(job.model),
        job.sets,
        model_name=job.model_name,
        compared_models=models,
        retrained_log_path=job.retrained_log,
    )
    try:
        run(JobSpec.model_validate(job.spec), inputs, folder / "out", state_folder=folder / "state")
    except EngineError as error:
        raise EngineFailure(error.code, error.message) from error
    steps.say(f"  {job.model_name}: in this process")
    return {"wall": round(time.monotonic() - started, 1), "cpu": round(time.process_time() - cpu, 1)}


def _run_apart(folder: Path, job: EngineRun, steps: Steps) -> dict[str, float]:
    started = time.monotonic()
    failed = {"code": "crash", "message": f"see {folder / 'engine.log'}"}
    with (folder / "engine.log").open("a") as log:
        engine = subprocess.Popen(
            [sys.executable, *_command(folder, job)[1:], "--events", "--parent-pid", str(os.getpid())],
            cwd=_ROOT,
            env={"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(job.threads), **MALLOC_ENVIRONMENT, **os.environ},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert engine.stdout is not None
        told = started
        for line in engine.stdout:
            event = json.loads(line)
            if event["kind"] == "failed":
                failed = event["data"]
            elif event["kind"] == "progress" and time.monotonic() - told > _SAY_SECONDS:
                told = time.monotonic()
                steps.say(f"  {_progress(event['data'])}")
        _, status, used = os.wait4(engine.pid, 0)  # its own use: another engine may run beside it
        engine.returncode = os.waitstatus_to_exitcode(status)
    if engine.returncode:
        raise EngineFailure(failed["code"], failed["message"])
    return {"wall": round(time.monotonic() - started, 1), "cpu": round(used.ru_utime + used.ru_stime, 1)}


def _command(folder: Path, job: EngineRun) -> list[str]:
    command = ["python", "-m", "soul_core", str(folder / "spec.json"), "--model", str(job.model)]
    command += ["--model-name", job.model_name, "--out", str(folder / "out"), "--state", str(folder / "state")]
    for name, path in job.sets.items():
        named = name in {"forget", "retain", "train", "holdout", "general"}
        command += [f"--{name}", str(path)] if named else ["--dataset", f"{name}={path}"]
    for name, path in job.compared_models.items():
        command += ["--compare", f"{name}={path}"]
    if job.retrained_log:
        command += ["--retrained-log", str(job.retrained_log)]
    return command


def _progress(data: Mapping[str, Any]) -> str:
    loss = f", loss {data['loss']:.3f}" if "loss" in data else ""
    return (
        f"{data['phase']} {data['done']}/{data['total']} {data['unit']}{loss}, {data.get('eta_seconds', 0):.0f} s left"
    )
