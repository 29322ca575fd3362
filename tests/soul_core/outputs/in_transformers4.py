"""Runs with transformers 4.57, in its own process: `make FOLDER` writes bases, `verify FOLDER...` checks exports."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.tiny_tokenizer import VOCAB_SIZE

SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
IDS = [5, 9, 20, 31, 7, 300, 12, 44, 3, 81] * 9


def configs() -> dict[str, Any]:
    t: Any = transformers
    return {
        "llama": t.LlamaConfig(**SHAPE, rope_theta=100_000.0),
        "llama3": t.LlamaConfig(**SHAPE, rope_theta=500_000.0, rope_scaling=LLAMA3),
        "tied": t.LlamaConfig(**SHAPE, rope_theta=100_000.0, tie_word_embeddings=True),
        "qwen2": t.Qwen2Config(**SHAPE, rope_theta=1_000_000.0),
        "qwen3": t.Qwen3Config(**SHAPE, rope_theta=1_000_000.0, head_dim=16),
        "gemma2": t.Gemma2Config(**SHAPE, head_dim=8, sliding_window=4, rope_theta=50_000.0),
        "gemma3": t.Gemma3TextConfig(
            **SHAPE,
            head_dim=8,
            sliding_window=4,
            rope_theta=300_000.0,
            rope_local_base_freq=20_000.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        ),
        "phi3": t.Phi3Config(**SHAPE, rope_theta=70_000.0),
        "gpt2": t.GPT2Config(
            vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
        ),
    }


def logits(model: Any) -> list[float]:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0, -1].tolist()


def make(folder: Path) -> dict[str, list[float]]:
    """Save a base model of each kind, and return the logits that this version computes with it."""
    logits_by_name = {}
    for name, config in configs().items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 5).bfloat16())
        logits_by_name[name] = logits(model)
        model.to(torch.bfloat16).save_pretrained(folder / name)
    return logits_by_name


def verify(folders: list[Path]) -> dict[str, Any]:
    from dataclasses import asdict

    from soul_core.verify_export import verify_export

    return {str(folder): [asdict(result) for result in verify_export(folder)] for folder in folders}


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, *folders = sys.argv[1:]
    output = make(Path(folders[0])) if task == "make" else verify([Path(folder) for folder in folders])
    print(json.dumps({"version": transformers.__version__, "output": output}))
