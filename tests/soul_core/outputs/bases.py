"""Tiny base models whose rotary embeddings, heads and types are not the defaults, like those of published models."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from transformers import (
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from bench.tiny_architectures import TINY_SHAPE, build_tiny, make_config
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.dtypes import choose_export_dtypes, round_for_export
from soul_core.outputs.export import export_checkpoint
from soul_core.outputs.gguf_tokenizer import _LLAMA3, _QWEN2

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_NEOX = {key: value for key, value in TINY_SHAPE.items() if key != "num_key_value_heads"}


def rope(theta: float, **others: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **others}


#: Each computes wrong numbers if its rotary base, scaling or tied head is not read.
BASES: dict[str, PreTrainedConfig] = {
    "llama_100000": LlamaConfig(**TINY_SHAPE, rope_parameters=rope(100_000.0)),
    "llama3_scaling": LlamaConfig(**TINY_SHAPE, rope_parameters=LLAMA3_ROPE),
    "llama_linear": LlamaConfig(**TINY_SHAPE, rope_parameters=rope(20_000.0, factor=4.0) | {"rope_type": "linear"}),
    "llama_tied": LlamaConfig(**TINY_SHAPE, tie_word_embeddings=True, rope_parameters=rope(100_000.0)),
    "qwen2": Qwen2Config(**TINY_SHAPE, rope_parameters=rope(1_000_000.0)),
    "qwen3": Qwen3Config(**TINY_SHAPE, head_dim=16, rope_parameters=rope(1_000_000.0)),
    "mistral": make_config("Mistral, window"),
    "gemma2": make_config("Gemma 2"),
    "gemma3": Gemma3TextConfig(
        **TINY_SHAPE,
        head_dim=8,
        sliding_window=4,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 300_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
        },
    ),
    "gpt2": make_config("GPT-2"),
    "phi3": Phi3Config(**TINY_SHAPE, rope_parameters=rope(70_000.0)),
    "gpt_neox": GPTNeoXConfig(**_NEOX, rope_parameters=rope(30_000.0, partial_rotary_factor=0.5)),
    "olmo3": Olmo3Config(**TINY_SHAPE, sliding_window=4, rope_parameters=None),
}


def save_base(
    folder: Path, config: PreTrainedConfig, *, dtype: torch.dtype = torch.bfloat16, split: str = "gpt-2"
) -> Path:
    build_tiny(config).to(dtype).save_pretrained(folder)
    make_tokenizer(split).save_pretrained(folder)
    return folder


def make_tokenizer(split: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with the rules that llama.cpp has for a name."""
    tokenizer = make_tiny_tokenizer()
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules = {
        "gpt-2": words,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]),
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), plain]),
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN2), "isolated"), plain]),
        "letters": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("[a-z]+"), "isolated"), plain]),
    }
    tokenizer.backend_tokenizer.pre_tokenizer = rules[split]
    return tokenizer


def load_base(folder: Path, config: PreTrainedConfig, **options: Any) -> LoadedModel:
    return load_model(save_base(folder, config, **options), device="cpu")


def export_as_run(loaded: LoadedModel, folder: Path, *, dtype: str = "base") -> Path:
    """Round and export a model as a run does."""
    dtypes = choose_export_dtypes(loaded, dtype)
    round_for_export(loaded.model, dtypes)
    export_checkpoint(loaded.model, loaded.tokenizer, folder, dtypes=dtypes)
    return folder
