"""Writes the pinned trajectories: `python -m tests.soul_core.training.golden.make [NAME ...]`.

Each is a run of an untrained tiny model through the engine's own command: thirty steps by the two main optimizers, ten
steps for each further branch of the training loop. Run it only when the mathematics is meant to change, and state the
reason in the commit.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from soul_core.__main__ import main
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows

HERE = Path(__file__).parent
CURVES = (
    "loss",
    "forget_loss",
    "retain_loss",
    "grad_norm",
    "unclipped_fraction",
    "curvature_interval",
    "retain_weight",
    "gamma",
    "guard_rise",
)

_COMMON: dict[str, Any] = {
    "training": {"steps": 30, "forget_batch": 2, "retain_batch": 3, "schedule": "cosine", "warmup_steps": 3},
    "retain": {"kind": "nll"},
    "evaluation": {"metrics": ["probability"], "bootstrap": 0},
    "data": {"retain_held_out": 0},
    "attacks": [],
    "criteria": [],
    "seed": 3,
}
_SHORT: dict[str, Any] = {**_COMMON, "training": {**_COMMON["training"], "steps": 10}}
_RETAIN: dict[str, Any] = {"every": 4, "data": "retain"}
_SOPHIA: dict[str, Any] = {"kind": "sophia", "lr": 1e-3, "gamma": 1.0, "curvature": _RETAIN}
_HUTCHINSON: dict[str, Any] = {"kind": "hutchinson", "every": 4, "adaptive": True, "warm_start": 2, "data": "both"}
SPECS: dict[str, dict[str, Any]] = {
    "sophia": {**_COMMON, "optimizer": {**_SOPHIA, "weight_decay": 0.01, "curvature": {**_RETAIN, "every": 5}}},
    "sophia_auto": {**_SHORT, "optimizer": {"kind": "sophia", "lr": "auto", "curvature": {"every": 4}}},
    "adamw": {**_COMMON, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.01}},
    "upstream_compat": {
        **_SHORT,
        "optimizer": {"kind": "upstream_compat", "lr": 1e-3},
        "forget": {"kind": "grad_diff"},
    },
    "hutchinson": {**_SHORT, "optimizer": {**_SOPHIA, "curvature": _HUTCHINSON}, "retain": {"kind": "kl"}},
    "rmu": {**_SHORT, "optimizer": _SOPHIA, "forget": {"kind": "rmu"}, "retain": {"kind": "rmu_retain"}},
    "dpo": {**_SHORT, "optimizer": _SOPHIA, "forget": {"kind": "dpo"}},
    "pdu": {
        **_SHORT,
        "optimizer": _SOPHIA,
        "forget": {"kind": "pdu", "dual_start": 1.0, "dual_step": 1.0, "dual_warmup": 2},
    },
    "saliency": {
        **_SHORT,
        "optimizer": {**_SOPHIA, "weight_decay": 0.01},
        "saliency": {"keep_fraction": 0.2, "score": "wagle"},
    },
}


def run_trajectory(name: str, folder: Path) -> dict[str, list[float]]:
    """Run a spec as a command; return the report's curves and the norm of the exported weights."""
    torch.set_num_threads(1)
    model = make_untrained_model(folder / "model", seed=7)
    spec = folder / "spec.json"
    spec.write_text(json.dumps(SPECS[name]))
    forget, retain = list(COUNTRIES)[:4], list(COUNTRIES)[4:]
    sets = ["--forget", write_rows(folder / "forget.jsonl", forget), "--retain", write_rows(folder / "r.jsonl", retain)]
    code = main([str(part) for part in (spec, "--model", model, *sets, "--out", folder / "out")])
    assert code == 0, f"the engine ended with {code}"
    curves = json.loads((folder / "out" / "report.json").read_text())["run"]["curves"]
    tensors = load_file(folder / "out" / "checkpoint" / "model.safetensors")
    norm = float(torch.cat([tensor.flatten() for tensor in tensors.values()]).norm())
    return {**{curve: curves[curve] for curve in CURVES if curve in curves}, "norm_of_weights": [norm]}


def write_trajectories(names: Sequence[str]) -> None:
    """Write one file per spec."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            trajectory = run_trajectory(name, Path(folder))
        rounded = {curve: [float(f"{value:.6g}") for value in values] for curve, values in trajectory.items()}
        (HERE / f"{name}.json").write_text(json.dumps(rounded, indent=1) + "\n")
        sys.stdout.write(f"{name}: loss {rounded['loss'][0]} -> {rounded['loss'][-1]}\n")


if __name__ == "__main__":
    write_trajectories(sys.argv[1:] or tuple(SPECS))
