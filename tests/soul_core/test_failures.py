"""Trainings that fail for a real cause: too little memory, a learning rate far too high."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import TrainingDivergedError
from soul_core.models.loading import load_model
from soul_core.spec import JobSpec
from soul_core.training.trainer import train
from tests.fixtures.capitals_training import RecordingListener, examples_of
from tests.paths import ROOT

#: Four sequences of 512 tokens through a layer 16,384 wide: 0.5 GB of activations for all, an eighth of it for 256.
LARGE_TRAINING = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from soul_core.data.encoding import Example
from soul_core.errors import OutOfMemory
from soul_core.models.loading import LoadedModel
from soul_core.models.packed_attention import PACKED_ATTENTION
from soul_core.report import ModelFacts
from soul_core.spec import JobSpec
from soul_core.training.trainer import train
from tests.fixtures.capitals_training import RecordingListener

torch.set_num_threads(1)
examples = [Example(tuple((7 * i + 3 * row) % 50 for i in range(512)), 500, row) for row in range(4)]
facts = ModelFacts(source="wide", digest="0" * 64, architecture="LlamaForCausalLM", num_parameters=1,
                   context_tokens=512, chat_template=False)

def run(name, micro_batch_tokens, free_bytes=None):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=16384, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
                         attn_implementation=PACKED_ATTENTION)
    loaded = LoadedModel(LlamaForCausalLM(config).eval(), None, facts, torch.device("cpu"), torch.float32)
    training = {"steps": 2, "retain_batch": 4, "micro_batch_tokens": micro_batch_tokens}
    spec = JobSpec.model_validate({"kind": "finetune", "optimizer": {"kind": "adamw"}, "training": training})
    if free_bytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + free_bytes, resource.RLIM_INFINITY))
    listener = RecordingListener()
    try:
        result = train(loaded, spec, forget=(), retain=examples, state_dir=Path(sys.argv[1]) / name, listener=listener)
        outcome = list(result.curves["loss"])
    except OutOfMemory as error:
        outcome = error.message
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"outcome": outcome, "warnings": [data["message"] for data in listener.of("warning")]}

print(json.dumps([run("plenty", 512), run("little", 2048, 400 << 20), run("none", 2048, 60 << 20)]))
"""


@pytest.fixture(scope="module")
def results_by_memory(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The same training with enough memory in small batches, with little in large ones, and with almost none."""
    command = [sys.executable, "-c", LARGE_TRAINING, str(tmp_path_factory.mktemp("large"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    results: list[dict[str, Any]] = json.loads(process.stdout.splitlines()[-1])
    return results


def test_when_memory_runs_out_the_micro_batch_halves_and_losses_stay_the_same(
    results_by_memory: list[dict[str, Any]],
) -> None:
    plenty, little, _ = results_by_memory

    assert plenty["warnings"] == []
    assert "memory ran out; a forward pass now takes at most 1024 tokens" in little["warnings"][0]
    assert little["outcome"] == pytest.approx(plenty["outcome"], rel=1e-4)


def test_if_not_even_one_sequence_fits_the_error_has_a_remedy(results_by_memory: list[dict[str, Any]]) -> None:
    message = results_by_memory[2]["outcome"]

    assert "not enough memory to train on one sequence of 512 tokens" in message
    assert "training.max_tokens" in message


def test_a_learning_rate_far_too_high_stops_before_the_non_finite_update(
    taught_model_dir: Path, tmp_path: Path
) -> None:
    loaded = load_model(taught_model_dir, device="cpu")
    forget, retain = examples_of(loaded)
    spec = JobSpec.model_validate(
        {
            "optimizer": {"kind": "adamw", "lr": 1.0, "beta2": 0.0},
            "training": {"steps": 100, "forget_batch": 1, "checkpoint_every": 100, "stop_at": None},
        }
    )

    with pytest.raises(TrainingDivergedError, match=r"before its update; lower optimizer\.lr"):
        train(loaded, spec, forget=forget, retain=retain, state_dir=tmp_path, listener=RecordingListener())

    assert all(bool(torch.isfinite(parameter).all()) for parameter in loaded.model.parameters())
