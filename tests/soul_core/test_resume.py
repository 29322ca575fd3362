"""Every optimizer, curvature and wrapper resumes bit-identical after an interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import RunInterruptedError
from soul_core.optimizers import OPTIMIZERS
from soul_core.training.checkpoint import load_newest_checkpoint
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS
from tests.fixtures.capitals_training import RecordingListener, train_tiny, weights

TRAINING = {"steps": 6, "checkpoint_every": 4, "forget_batch": 2, "retain_batch": 2}
SOPHIA = {"kind": "sophia", "lr": 1e-3}

CASES: dict[str, dict[str, Any]] = {
    **{f"optimizer {kind}": {"optimizer": {"kind": kind, "lr": 1e-3}} for kind in OPTIMIZERS},
    **{
        f"curvature {kind}": {"optimizer": {**SOPHIA, "curvature": {"kind": kind, "every": 2, "data": "both"}}}
        for kind in CURVATURE_ESTIMATORS
    },
    "adaptive": {"optimizer": {**SOPHIA, "curvature": {"every": 3, "adaptive": True}}},
    "upstream in bfloat16": {"optimizer": {"kind": "upstream_compat", "lr": 1e-3}, "dtype": "bfloat16"},
    "selection": {"optimizer": SOPHIA, "parameters": {"include": ["model.layers.1.*"], "exclude": ["*norm*"]}},
    "saliency": {"optimizer": {**SOPHIA, "weight_decay": 0.1}, "saliency": {"keep_fraction": 0.2, "score": "wagle"}},
    "sharpness": {"optimizer": SOPHIA, "sharpness": {"rho": 0.1}},
    "paraphrases": {"optimizer": SOPHIA, "data": {"paraphrases": 2}},
    "latent": {"optimizer": SOPHIA, "latent": {"steps": 2}},
    "all wrappers": {
        "optimizer": {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.1},
        "parameters": {"exclude": ["*embed*"]},
        "saliency": {"score": "relative"},
        "sharpness": {},
        "latent": {"steps": 2, "positions": "all"},
        "retain": {"kind": "kl"},
    },
    "lora": {"optimizer": SOPHIA, "lora": {"rank": 4}},
    "lora, latent": {"optimizer": SOPHIA, "lora": {"rank": 4}, "latent": {"steps": 2}},
    "lora, sharpness, base in 4 bits": {
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "lora": {"rank": 4, "base_weights": "nf4"},
        "sharpness": {},
    },
    "second-order fine-tuning by epochs": {
        "kind": "finetune",
        "optimizer": SOPHIA,
        "training": {**TRAINING, "epochs": 1.5, "retain_batch": 2},  # 7 rows: 6 steps
    },
}


@pytest.mark.parametrize("spec", CASES.values(), ids=CASES)
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(
    spec: dict[str, Any], taught_model_dir: Path, tmp_path: Path
) -> None:
    if "base_weights" in spec.get("lora", {}):
        pytest.importorskip("torchao", reason="the extra 'quantized' is not installed")
    spec = {"training": TRAINING, **spec}
    uninterrupted, uninterrupted_model = train_tiny(taught_model_dir, tmp_path / "uninterrupted", spec)

    with pytest.raises(RunInterruptedError):
        train_tiny(taught_model_dir, tmp_path / "resumed", spec, RecordingListener(stop_after_metrics=3))
    resumed, resumed_model = train_tiny(taught_model_dir, tmp_path / "resumed", spec)

    assert torch.equal(weights(resumed_model), weights(uninterrupted_model))
    assert resumed.curves == uninterrupted.curves
    assert (resumed.steps, resumed.train_tokens, resumed.flops) == (6, uninterrupted.train_tokens, uninterrupted.flops)
    assert resumed.resumed_at_steps == [3]


@pytest.mark.parametrize(
    ("spec", "fraction"),
    [(CASES["selection"], 0.35), (CASES["lora"], 0.4)],
    ids=["selection", "lora"],
)
def test_a_checkpoint_has_the_trainable_parameters_only(
    spec: dict[str, Any], fraction: float, taught_model_dir: Path, tmp_path: Path
) -> None:
    _, model = train_tiny(taught_model_dir, tmp_path, {"training": TRAINING, **spec})

    checkpoint = load_newest_checkpoint(tmp_path / "train", torch.device("cpu"))
    assert checkpoint is not None
    num_saved = sum(tensor.numel() for tensor in checkpoint.states["weights"]["parameters"])
    assert 0 < num_saved < fraction * model.facts.num_parameters
