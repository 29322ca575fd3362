"""Runs the engine as users do, by `python -m soul_core`, and measures its time."""

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

#: glibc returns large tensors to the kernel after every use and receives zeroed memory again: a fifth of a CPU step.
MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
#: Engines that a benchmark runs at the same time.
MAX_PARALLEL_RUNS = 2
_ROOT = Path(__file__).parents[1]
_REPORT_EVERY_SECONDS = 30.0


class EngineFailure(RuntimeError):
    """A run of the engine failed. `code` is the engine's code of the failure."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class EngineRun:
    """One run of the engine: the spec and its inputs.

    `compared_models` are measured as well; `retrained_log` holds an earlier run's measurements of the retrained model.
    `threads` is half of the cores, because two runs at the same time are faster than one on all cores.
    """

    spec: Mapping[str, Any]
    model: Path
    sets: Mapping[str, Path]
    compared_models: Mapping[str, Path] = field(default_factory=dict)
    model_name: str = "model"
    retrained_log: Path | None = None
    threads: int = max(1, (os.cpu_count() or 1) // MAX_PARALLEL_RUNS)

    def make_key(self) -> dict[str, Any]:
        """Return everything that the result depends on, except the code."""
        return {
            "spec": self.spec,
            "model": compute_path_digest(self.model),
            "sets": {name: compute_path_digest(path) for name, path in self.sets.items()},
            "compared_models": {name: compute_path_digest(path) for name, path in self.compared_models.items()},
            **({"retrained_log": compute_path_digest(self.retrained_log)} if self.retrained_log else {}),
        }


def run_engine_once(steps: Steps, name: str, job: EngineRun) -> Path:
    """Run the engine unless this run was done before; return its output folder. Raises EngineFailure."""

    def run(folder: Path) -> StepResult:
        (folder / "spec.json").write_text(json.dumps(job.spec, indent=1))
        run_engine = _run_in_subprocess if steps.use_subprocess else _run_in_this_process
        return {"seconds": run_engine(folder, job, steps), "command": " ".join(_make_command(Path(name), job))}

    steps.run_once(name, job.make_key(), run)
    return steps.work / name / "out"


def make_executor(steps: Steps) -> ThreadPoolExecutor:
    """Return an executor for several runs: one at a time inside this process, where loading is not thread-safe."""
    return ThreadPoolExecutor(MAX_PARALLEL_RUNS if steps.use_subprocess else 1)


def load_report(out: Path) -> dict[str, Any]:
    """Return the report in an output folder."""
    return dict(json.loads((out / REPORT).read_text()))


def load_run_seconds(out: Path) -> dict[str, float]:
    """Return wall and CPU seconds of the run that wrote an output folder; of its last start, if it was interrupted."""
    return dict(json.loads((out.parent / "step.json").read_text())["seconds"])


def _run_in_this_process(folder: Path, job: EngineRun, steps: Steps) -> dict[str, float]:
    """Run inside this process, which saves the seconds that a new process takes to import torch."""
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


def _run_in_subprocess(folder: Path, job: EngineRun, steps: Steps) -> dict[str, float]:
    started = reported = time.monotonic()
    failure = {"code": "crash", "message": f"see {folder / 'engine.log'}"}
    with (folder / "engine.log").open("a") as log:
        engine = subprocess.Popen(
            [sys.executable, *_make_command(folder, job)[1:], "--events", "--parent-pid", str(os.getpid())],
            cwd=_ROOT,
            env={"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(job.threads), **MALLOC_ENVIRONMENT, **os.environ},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert engine.stdout is not None
        for line in engine.stdout:
            event = json.loads(line)
            if event["kind"] == "failed":
                failure = event["data"]
            elif event["kind"] == "progress" and time.monotonic() - reported > _REPORT_EVERY_SECONDS:
                reported = time.monotonic()
                steps.say(f"  {_format_progress(event['data'])}")
        _, status, usage = os.wait4(engine.pid, 0)  # of this engine alone: another one may run at the same time
        engine.returncode = os.waitstatus_to_exitcode(status)
    if engine.returncode:
        raise EngineFailure(failure["code"], failure["message"])
    return {"wall": round(time.monotonic() - started, 1), "cpu": round(usage.ru_utime + usage.ru_stime, 1)}


def _make_command(folder: Path, job: EngineRun) -> list[str]:
    command = ["python", "-m", "soul_core", str(folder / "spec.json"), "--model", str(job.model)]
    command += ["--model-name", job.model_name, "--out", str(folder / "out"), "--state", str(folder / "state")]
    for name, path in job.sets.items():
        has_option = name in {"forget", "retain", "train", "holdout", "general"}
        command += [f"--{name}", str(path)] if has_option else ["--dataset", f"{name}={path}"]
    for name, path in job.compared_models.items():
        command += ["--compare", f"{name}={path}"]
    if job.retrained_log:
        command += ["--retrained-log", str(job.retrained_log)]
    return command


def _format_progress(data: Mapping[str, Any]) -> str:
    loss = f", loss {data['loss']:.3f}" if "loss" in data else ""
    return (
        f"{data['phase']} {data['done']}/{data['total']} {data['unit']}{loss}, {data.get('eta_seconds', 0):.0f} s left"
    )
