"""GGUF files as llama.cpp's converter writes them: reading gives the logits of the original model, or an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    StableLmConfig,
    Starcoder2Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bench.tiny_architectures import TINY_SHAPE, build_tiny, make_config
from bench.tiny_tokenizer import SPECIAL_TOKEN_IDS, VOCAB_SIZE, make_tiny_tokenizer
from soul_core.errors import BadModel
from soul_core.models.files import inspect_model
from soul_core.models.gguf import convert_to_folder
from tests.fixtures.tiny_gguf import write_any_gguf

torch.set_num_threads(1)

_FALCON = {name: TINY_SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
_FALCON |= {**SPECIAL_TOKEN_IDS, "max_position_embeddings": 128}
#: As in llama.cpp, whose files do not state it, Gemma's queries are divided by the root of the head's size.
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    **{name: make_config(name) for name in ("Llama", "Qwen2", "Qwen3", "Phi-3, window", "GPT-2")},
    "phi3_partial": Phi3Config(
        **TINY_SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    ),
    "gemma2": Gemma2Config(
        **TINY_SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=4, attn_logit_softcapping=2.0
    ),
    "gemma3": Gemma3TextConfig(
        **{**TINY_SHAPE, "num_hidden_layers": 6}, head_dim=8, query_pre_attn_scalar=8, sliding_window=4
    ),
    "stablelm": StableLmConfig(**TINY_SHAPE, use_qkv_bias=True),
    "starcoder2": Starcoder2Config(**TINY_SHAPE),
    "falcon": FalconConfig(**_FALCON),
    "falcon_grouped": FalconConfig(**_FALCON, num_kv_heads=2, new_decoder_architecture=True),
}
TOKEN_IDS = torch.randint(2, VOCAB_SIZE, (2, 100), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKEN_IDS).logits


def read_back(path: Path) -> Path:
    return convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=path.parent / "cache")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_readable_architecture_gives_the_logits_of_the_original_model(name: str, tmp_path: Path) -> None:
    model = build_tiny(ARCHITECTURES[name])
    path = write_any_gguf(tmp_path / "model", model, make_tiny_tokenizer())  # its name says nothing

    again = AutoModelForCausalLM.from_pretrained(read_back(path))

    assert type(again) is type(model)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "absent"),
    [
        (
            LlamaConfig(**{**TINY_SHAPE, "num_key_value_heads": 4}),
            ("head_count_kv", "freq_base", "key_length", "dimension_count"),
        ),
        (Qwen2Config(**{**TINY_SHAPE, "num_key_value_heads": 4}), ("head_count_kv", "freq_base")),
        (
            Gemma2Config(**TINY_SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=4096),
            ("sliding_window", "softcapping"),
        ),
        (
            StableLmConfig(
                **TINY_SHAPE, rope_parameters={"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0}
            ),
            ("freq_base", "dimension_count"),
        ),
    ],
    ids=["llama", "qwen2", "gemma2", "stablelm"],
)
def test_a_missing_key_has_the_default_of_llama_cpp(
    config: PreTrainedConfig, absent: tuple[str, ...], tmp_path: Path
) -> None:
    model = build_tiny(config)
    path = write_any_gguf(tmp_path / "a.gguf", model, make_tiny_tokenizer(), leave_out=absent)

    again = AutoModelForCausalLM.from_pretrained(read_back(path))

    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        (LLAMA3, {}),
        (
            {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        ),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, {"rope.scale_linear": 4.0}),
        (
            {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32},
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32},
        ),
    ],
    ids=["llama3", "linear", "scale_linear", "yarn"],
)
def test_a_scaled_rotary_embedding_is_scaled_the_same_way(
    rope: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    config = LlamaConfig(**{**TINY_SHAPE, "max_position_embeddings": 128}, head_dim=64, rope_parameters=rope)
    model = build_tiny(config)
    tensors = {}
    if rope["rope_type"] == "llama3":
        plain = 1.0 / 1e4 ** (torch.arange(0, 64, 2) / 64)
        stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        tensors["rope_freqs.weight"] = (plain / stretched).numpy().astype(np.float32)
        assert tensors["rope_freqs.weight"].max() == pytest.approx(32)
    path = write_any_gguf(tmp_path / "a.gguf", model, make_tiny_tokenizer(), more_keys=keys, more_tensors=tensors)

    again = AutoModelForCausalLM.from_pretrained(read_back(path))

    assert again.config.rope_parameters["rope_type"] == rope["rope_type"]
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("split", "key", "begins"),
    [
        ("llama-bpe", None, True),
        ("llama3", None, True),
        ("tekken", None, True),
        ("llama-bpe", False, False),
        ("qwen2", None, False),
        ("gpt-2", None, False),
        ("smollm", None, False),
        ("default", None, False),
        ("qwen2", True, True),
    ],
)
def test_a_text_begins_with_bos_as_in_llama_cpp(split: str, key: bool | None, begins: bool, tmp_path: Path) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Llama"), make_tiny_tokenizer(), split=split, add_bos=key)

    tokenizer = AutoTokenizer.from_pretrained(read_back(path))

    text = "The capital of France is Paris."
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id] * begins + bare
    assert tokenizer(text, text)["input_ids"] == [tokenizer.bos_token_id] * begins + bare + bare


def test_generation_ends_at_every_end_of_turn_token_of_llama_cpp(tmp_path: Path) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Llama"), make_tiny_tokenizer())

    model = AutoModelForCausalLM.from_pretrained(read_back(path))

    tokens = make_tiny_tokenizer().convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert set(tokens) == {"<|im_end|>", "<|endoftext|>"}


@pytest.mark.parametrize(
    ("options", "message", "named"),
    [
        ({"more_keys": {"attention.scale": 0.5}}, "hyperparameters", "qwen2.attention.scale"),
        ({"more_keys": {"rope.scaling.type": "longrope"}}, "longrope", ""),
        (
            {"more_tensors": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}},
            "does not have",
            "blk.0.attn_sinks.weight",
        ),
        ({"leave_out": ("blk.1.ffn_up",)}, "lacks weights", "model.layers.1.mlp.up_proj.weight"),
        ({"more_keys": {"expert_count": 8}}, "mixture of experts", ""),
    ],
    ids=["key", "longrope", "tensor", "missing", "experts"],
)
def test_metadata_that_would_change_the_model_is_refused_by_name(
    options: dict[str, Any], message: str, named: str, tmp_path: Path
) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Qwen2"), make_tiny_tokenizer(), **options)

    with pytest.raises(BadModel, match=message) as caught:
        read_back(path)

    assert named in " ".join(caught.value.details)


def test_registration_refuses_an_architecture_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Qwen2"), make_tiny_tokenizer())
    path.write_bytes(path.read_bytes().replace(b"qwen2", b"rwkv9"))

    with pytest.raises(BadModel, match=r"'rwkv9' cannot be read.*safetensors"):
        inspect_model(path)


def test_a_damaged_cache_folder_is_written_again(tmp_path: Path) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Llama"), make_tiny_tokenizer())
    weights = read_back(path) / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))

    again = read_back(path)

    assert (again / "model.safetensors").read_bytes() == good
    assert [folder.name for folder in (tmp_path / "cache").iterdir()] == [again.name]


def test_a_file_that_changes_while_it_is_converted_is_refused(tmp_path: Path) -> None:
    path = write_any_gguf(tmp_path / "a.gguf", build_tiny("Llama"), make_tiny_tokenizer())
    digest = inspect_model(path).digest
    write_any_gguf(path, build_tiny("Qwen2"), make_tiny_tokenizer())

    with pytest.raises(BadModel, match="changed while it was converted"):
        convert_to_folder(path, digest=digest, cache_dir=tmp_path / "cache")

    assert list((tmp_path / "cache").iterdir()) == []
