"""config.json: the base model's own file with the changes, in keys that other libraries read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaConfig

from bench.tiny_architectures import TINY_SHAPE
from soul_core.models.loading import load_model
from tests.soul_core.outputs.bases import BASES, LLAMA3_ROPE, export_as_run, load_base, save_base

#: What vLLM reads of a Llama's config.json: vllm/transformers_utils/config.py, vllm/config/model.py,
#: vllm/model_executor/models/llama.py. Since 0.24 through transformers 5, before through 4.
VLLM = {
    "architectures", "model_type", "dtype", "torch_dtype", "vocab_size", "hidden_size", "intermediate_size",
    "hidden_act", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings",
    "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id",
}  # fmt: skip
#: What llama.cpp's converter reads of it: convert_hf_to_gguf.py, conversion/base.py and conversion/llama.py.
LLAMA_CPP = {
    "architectures", "num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "vocab_size",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters",
}  # fmt: skip
#: Tensors that both look for, besides the layers'.
TENSORS = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
OF_A_LAYER = {
    f"{part}.weight"
    for part in (
        "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
}  # fmt: skip


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def test_a_llama_has_the_keys_and_tensors_that_vllm_and_llama_cpp_read(tmp_path: Path) -> None:
    folder = export_as_run(load_base(tmp_path / "base", BASES["llama_100000"]), tmp_path / "out")
    layers = {f"model.layers.{layer}.{name}" for layer in range(2) for name in OF_A_LAYER}
    assert config_of(folder).keys() >= VLLM | LLAMA_CPP
    assert load_file(folder / "model.safetensors").keys() == TENSORS | layers


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("llama_100000", {"rope_theta": 100_000.0, "rope_scaling": None}),
        ("qwen2", {"rope_theta": 1_000_000.0, "rope_scaling": None}),
        ("phi3", {"rope_theta": 70_000.0, "rope_scaling": None, "partial_rotary_factor": 1.0}),
        ("gpt_neox", {"rotary_emb_base": 30_000.0, "rotary_pct": 0.5, "rope_scaling": None}),
        (
            "llama3_scaling",
            {
                "rope_theta": 500_000.0,
                "rope_scaling": {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"},
            },
        ),
        (
            "gemma3",
            {
                "rope_theta": 300_000.0,
                "rope_local_base_freq": 20_000.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
    ],
)
def test_rotary_embeddings_have_both_forms_and_5x_reads_the_same(
    tmp_path: Path, name: str, spelled: dict[str, Any]
) -> None:
    loaded = load_base(tmp_path / "base", BASES[name])
    folder = export_as_run(loaded, tmp_path / "out")
    content = config_of(folder)
    assert {key: content.get(key, "absent") for key in spelled} == spelled
    assert content["rope_parameters"] == loaded.model.config.rope_parameters
    assert AutoConfig.from_pretrained(folder).rope_parameters == loaded.model.config.rope_parameters


def test_a_base_model_of_4x_keeps_its_own_keys(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", BASES["llama_100000"])
    own = {
        key: value for key, value in config_of(folder).items() if key not in {"rope_parameters", "dtype", "head_dim"}
    }
    own |= {"rope_theta": 100_000.0, "torch_dtype": "bfloat16", "transformers_version": "4.41.0", "note_of_mine": [1]}
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [2, 0]}')

    out = export_as_run(load_model(folder, device="cpu"), tmp_path / "out")

    assert {key: config_of(out)[key] for key in own} == own
    assert (out / "generation_config.json").read_bytes() == (folder / "generation_config.json").read_bytes()
    assert config_of(out)["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}


def test_the_type_has_both_keys_and_is_that_of_the_files(tmp_path: Path) -> None:
    """The config of the base model has another type than its weights: the weights are right."""
    folder = save_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE), dtype=torch.float32)
    content = config_of(folder) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(content))
    out = export_as_run(load_model(folder, device="cpu"), tmp_path / "out")
    assert (config_of(out)["dtype"], config_of(out)["torch_dtype"]) == ("float32", "float32")


@pytest.mark.parametrize("tied", [True, False])
def test_the_config_says_whether_heads_are_tied_as_the_files_do(tmp_path: Path, tied: bool) -> None:
    loaded = load_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE, tie_word_embeddings=tied))
    out = export_as_run(loaded, tmp_path / "out")
    assert config_of(out)["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) is not tied


def test_a_head_that_loading_unties_is_exported_with_its_own_weights(tmp_path: Path) -> None:
    """Loading corrects the model's config by its files; the base model's own file was wrong."""
    loaded = load_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE, tie_word_embeddings=False))
    content = config_of(tmp_path / "base") | {"tie_word_embeddings": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(content))
    out = export_as_run(loaded, tmp_path / "out")
    assert config_of(out)["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(out / "model.safetensors")


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE))
    content = config_of(folder) | {"_name_or_path": str(folder)}
    (folder / "config.json").write_text(json.dumps(content))
    out = export_as_run(load_model(folder, device="cpu"), tmp_path / "out")
    assert all(str(tmp_path) not in path.read_text() for path in out.glob("*.json"))
