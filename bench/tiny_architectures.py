"""Tiny models of many architectures, built from configs: what `bench.correctness` compares and tests run through.

Two layers, 32 wide; windows, chunks and length thresholds are so small that texts of 40 tokens exceed them.
"""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from bench.tiny_tokenizer import SPECIAL_TOKEN_IDS, VOCAB_SIZE, make_tiny_tokenizer

#: The sizes of a tiny model, by the names that Llama's config and most others have.
TINY_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **SPECIAL_TOKEN_IDS,
}
_GPT = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **SPECIAL_TOKEN_IDS}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA2 = {"mamba_chunk_size": 16, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_DELTA = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.5, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 12,
}

Config = tuple[str, Mapping[str, Any]]


def _like_llama(model_type: str, **changes: Any) -> Config:
    """Return a config whose sizes have Llama's names."""
    return model_type, {**TINY_SHAPE, **changes}


#: Name -> model type and config.
ARCHITECTURES: dict[str, Config] = {
    "Llama": _like_llama("llama"),
    "Llama, biases": _like_llama("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "Llama, YaRN": _like_llama(
        "llama",
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 32,
        },
    ),
    "Mistral, window": _like_llama("mistral", sliding_window=4),
    "Qwen2": _like_llama("qwen2"),
    "Qwen2, window": _like_llama("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "Qwen3": _like_llama("qwen3", head_dim=16),
    "Phi": _like_llama("phi"),
    "Phi-3, window": _like_llama("phi3", sliding_window=4),
    "Phi-3, LongRoPE": _like_llama("phi3", original_max_position_embeddings=12, rope_parameters=_LONG_ROPE),
    "Gemma": _like_llama("gemma", head_dim=8),
    "Gemma 2": _like_llama("gemma2", head_dim=8, sliding_window=4, attn_logit_softcapping=2.0),
    "Gemma 3": _like_llama("gemma3_text", head_dim=8, sliding_window=4),
    "GPT-2": ("gpt2", _GPT),
    "GPT-BigCode": ("gpt_bigcode", _GPT),
    "GPT-NeoX": _like_llama("gpt_neox", num_key_value_heads=None),
    "GPT-Neo": (
        "gpt_neo",
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 128,
            **SPECIAL_TOKEN_IDS,
        },
    ),
    "GPT-J": ("gptj", {**_GPT, "rotary_dim": 4}),
    "CodeGen": ("codegen", {**_GPT, "rotary_dim": 4}),
    "OPT": ("opt", {**TINY_SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "Falcon": _like_llama("falcon", num_kv_heads=2, new_decoder_architecture=True),
    "Falcon, ALiBi": _like_llama("falcon", alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "BLOOM": ("bloom", {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 2, "n_head": 4, **SPECIAL_TOKEN_IDS}),
    "MPT": (
        "mpt",
        {"vocab_size": VOCAB_SIZE, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128, **SPECIAL_TOKEN_IDS},
    ),
    "StableLM": _like_llama("stablelm", use_qkv_bias=True),
    "OLMo": _like_llama("olmo"),
    "OLMo 2": _like_llama("olmo2"),
    "Cohere": _like_llama("cohere"),
    "Granite": _like_llama("granite", embedding_multiplier=2.0, logits_scaling=3.0),
    "Starcoder2, window": _like_llama("starcoder2", sliding_window=4),
    "SmolLM3": _like_llama("smollm3", no_rope_layers=[1, 0]),
    "Nemotron": _like_llama("nemotron"),
    "Persimmon": _like_llama("persimmon", num_key_value_heads=None),
    "GLM-4": _like_llama("glm4", head_dim=8),
    "Llama 4, chunks": _like_llama(
        "llama4_text",
        num_local_experts=4,
        num_experts_per_tok=1,
        head_dim=8,
        intermediate_size_mlp=64,
        attention_chunk_size=8,
        no_rope_layers=[1, 0],
        floor_scale=8,
    ),
    "Mixtral": _like_llama("mixtral", sliding_window=None, **_MOE),
    "Qwen2-MoE": _like_llama(
        "qwen2_moe",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    ),
    "Granite-MoE": _like_llama("granitemoe", **_MOE),
    "GPT-OSS": _like_llama(
        "gpt_oss", head_dim=8, sliding_window=4, rope_parameters={"rope_type": "default", "rope_theta": 1e4}, **_MOE
    ),
    "DeepSeek-V3": _like_llama("deepseek_v3", **_LATENT),
    "XGLM": (
        "xglm",
        {
            "vocab_size": VOCAB_SIZE,
            "d_model": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 128,
            **SPECIAL_TOKEN_IDS,
        },
    ),
    "Mamba": _like_llama("mamba", state_size=8),
    "Mamba 2": _like_llama("mamba2", state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=16),
    "RecurrentGemma": _like_llama(
        "recurrent_gemma",
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=4,
        num_key_value_heads=1,
        head_dim=8,
    ),
    "Jamba": _like_llama(
        "jamba",
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "Bamba": _like_llama("bamba", attn_layer_indices=[1], **_MAMBA2),
    "Falcon-H1": _like_llama("falcon_h1", mamba_d_ssm=64, **_MAMBA2),
    "LFM2": _like_llama("lfm2", layer_types=["conv", "full_attention"]),
    "Qwen3-Next": _like_llama(
        "qwen3_next",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        **_DELTA,
    ),
    "RWKV": (
        "rwkv",
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "num_hidden_layers": 2,
            "context_length": 128,
            **SPECIAL_TOKEN_IDS,
        },
    ),
}


def make_config(name: str, **changes: Any) -> PreTrainedConfig:
    """Return the config of one of `ARCHITECTURES`, with some of its fields changed."""
    model_type, values = ARCHITECTURES[name]
    fields = {key: value for key, value in {**values, **changes}.items() if value is not None}
    return AutoConfig.for_model(model_type, **fields)


def build_tiny(architecture: str | PreTrainedConfig, **options: Any) -> Any:
    """Build a model whose attention matters: matrices five times larger than initialization makes them.

    Args:
        architecture: a name in `ARCHITECTURES` or a config. The model gets a copy of the config, because resizing the
            embeddings writes into it.
        options: what `AutoModelForCausalLM.from_config` takes in addition.
    """
    config = make_config(architecture) if isinstance(architecture, str) else deepcopy(architecture)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, **options).eval()
    with torch.no_grad():
        for weight, parameter in model.named_parameters():
            if parameter.ndim > 1 and not weight.endswith("A_log"):  # Mamba takes its exponential twice
                parameter.mul_(5)
    return model


def save_tiny(architecture: str, folder: Path, *, chat: bool = True, shard_size: str = "5GB") -> Path:
    """Save one architecture with random weights and a tokenizer as transformers does; replaces the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    build_tiny(architecture).save_pretrained(folder, max_shard_size=shard_size)
    make_tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder
