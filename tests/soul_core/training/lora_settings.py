"""Which LoRA settings make a model forget: `python -m tests.soul_core.training.lora_settings`, a minute on one core.

NPO with AdamW on the tests' tiny model, which knows ten capitals: three to forget, seven to retain. Prints the table
of docs/reference/methods.md. It shows which settings are worth trying, not what a real model does.
"""

import tempfile
from pathlib import Path
from typing import Any

from soul_core.models.loading import load_model
from tests.fixtures.capitals import make_taught_model
from tests.fixtures.capitals_training import examples_of, probability, train_tiny

TARGETS: dict[str, dict[str, Any]] = {
    "q_proj and v_proj, 8": {"targets": ["q_proj", "v_proj"], "rank": 8, "alpha": 16},
    "all linear layers, 16": {},
}
RATES = (2e-5, 1e-3, 5e-3)


def main() -> None:
    """Print one line per choice of targets: forget and retain probability at each learning rate."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_taught_model(Path(folder) / "model")
        forget, retain = examples_of(base := load_model(model, device="cpu"))
        print(f"before: {probability(base, forget):.3f} / {probability(base, retain):.3f}")
        for name, lora in TARGETS.items():
            cells = []
            for rate in RATES:
                spec = {
                    "optimizer": {"kind": "adamw", "lr": rate},
                    "lora": lora,
                    "retain": {"weight": 3},
                    "training": {"steps": 40},
                }
                _, after = train_tiny(model, Path(folder) / f"{name} {rate}", spec)
                cells.append(f"{probability(after, forget):.3f} / {probability(after, retain):.3f}")
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
