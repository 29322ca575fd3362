"""Writes the pinned trajectories: `python -m tests.soul_core.training.golden.make`.

Thirty steps of an untrained tiny model through the engine's own command. Run it only when the maths is meant to have
moved, and say in the commit why.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from soul_core.__main__ import main
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows

HERE = Path(__file__).parent
CURVES = ("loss", "forget_loss", "retain_loss", "grad_norm", "unclipped_fraction")

_COMMON = {
    "training": {"steps": 30, "forget_batch": 2, "retain_batch": 3, "schedule": "cosine", "warmup_steps": 3},
    "evaluation": {"metrics": ["probability"], "bootstrap": 0},
    "attacks": [],
    "criteria": [],
    "seed": 3,
}
SPECS: dict[str, dict[str, Any]] = {
    "sophia": {**_COMMON, "optimizer": {"kind": "sophia", "lr": 1e-3, "weight_decay": 0.01, "curvature": {"every": 5}}},
    "adamw": {**_COMMON, "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.01}},
}


def trajectory(name: str, folder: Path) -> dict[str, list[float]]:
    """Run a spec as a command and return the report's curves, and the weights' norm at the end."""
    from safetensors.torch import load_file

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


def write_all() -> None:
    """Write one file an optimizer."""
    for name in SPECS:
        with tempfile.TemporaryDirectory() as folder:
            found = trajectory(name, Path(folder))
        rounded = {curve: [float(f"{value:.6g}") for value in values] for curve, values in found.items()}
        (HERE / f"{name}.json").write_text(json.dumps(rounded, indent=1) + "\n")
        sys.stdout.write(f"{name}: loss {rounded['loss'][0]} -> {rounded['loss'][-1]}\n")


if __name__ == "__main__":
    write_all()
