"""GGUF files: our reader and that of transformers compute the checkpoint's logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen3Config

from bench.tiny_architectures import TINY_SHAPE, build_tiny, make_config
from bench.tiny_tokenizer import VOCAB_SIZE
from soul_core.errors import BadSpec, EngineError
from soul_core.models.files import inspect_model
from soul_core.models.gguf import convert_to_folder
from soul_core.models.gguf_header import read_gguf_header
from soul_core.models.loading import LoadedModel, load_model
from soul_core.outputs.gguf_check import verify_gguf
from soul_core.outputs.gguf_file import check_gguf, write_gguf
from tests.soul_core.outputs.bases import BASES, LLAMA3_ROPE, load_base, rope

IDS = torch.tensor([[5, 9, 20, 31, 7, 300, 12, 44, 3, 81]])
TEXT = "What is 1995? Don't ask 日本語, हिन्दी…\n\n  The Thames."


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_base(tmp_path_factory.mktemp("llama"), BASES["llama_100000"], split="smollm")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def round_to_16_bits(loaded: LoadedModel) -> Any:
    """Return the model with its matrices rounded to 16 bits."""
    model = build_tiny(loaded.model.config)
    model.load_state_dict(loaded.model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    return model


def write(loaded: LoadedModel, path: Path, kind: str) -> tuple[Path, Any]:
    tokenizer = write_gguf(loaded.model, loaded.tokenizer, path, kind=kind, name="tiny")
    return path, verify_gguf(path, loaded.model, tokenizer, kind=kind)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_our_reader_reads_the_same_model_and_tokenizer(llama: LoadedModel, tmp_path: Path, kind: str) -> None:
    path, _ = write(llama, tmp_path / "a.gguf", kind)

    folder = convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")

    again, tokenizer = load_model(folder, device="cpu"), AutoTokenizer.from_pretrained(folder)
    expected = logits(round_to_16_bits(llama) if kind == "f16" else llama.model)
    torch.testing.assert_close(logits(again.model), expected, **({} if kind == "f16" else {"atol": 0.5, "rtol": 0.1}))
    assert tokenizer(TEXT)["input_ids"] == llama.tokenizer(TEXT)["input_ids"]
    assert tokenizer.chat_template == llama.tokenizer.chat_template
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)


@pytest.mark.parametrize(
    ("config", "split"),
    [
        (BASES["llama_100000"], "smollm"),
        (BASES["llama_tied"], "gpt-2"),
        (BASES["qwen2"], "qwen2"),
        (Qwen3Config(**TINY_SHAPE, head_dim=128), "qwen2"),  # that reader knows no other head_dim of a Qwen3
        (MistralConfig(**TINY_SHAPE, sliding_window=None, rope_parameters=rope(50_000.0)), "gpt-2"),
        (LlamaConfig(**TINY_SHAPE, attention_bias=True), "llama-bpe"),
    ],
    ids=["llama", "tied", "qwen2", "qwen3", "mistral", "biased"],
)
def test_the_gguf_reader_of_transformers_computes_the_same_logits(
    tmp_path: Path, config: PreTrainedConfig, split: str
) -> None:
    loaded = load_base(tmp_path / "base", config, split=split)
    path, _ = write(loaded, tmp_path / "a.gguf", "f16")

    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()

    torch.testing.assert_close(logits(again), logits(round_to_16_bits(loaded)), atol=1e-4, rtol=1e-4)


def test_reading_back_measures_the_rounding(llama: LoadedModel, tmp_path: Path) -> None:
    _, of_f16 = write(llama, tmp_path / "a.gguf", "f16")
    _, of_q8 = write(llama, tmp_path / "b.gguf", "q8_0")
    assert 0 <= of_f16.relative_error < 1e-4 < of_q8.relative_error < 0.01
    assert of_q8.max_error < 0.01


def test_a_changed_number_is_an_error(llama: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    tokenizer = write_gguf(llama.model, llama.tokenizer, path, kind="q8_0", name="tiny")
    place = next(place for place in read_gguf_header(path).tensors if place.name == "blk.1.ffn_up.weight")
    content = bytearray(path.read_bytes())
    content[place.file_offset + 5] ^= 0x40  # one eight-bit number by 64 steps
    path.write_bytes(content)

    with pytest.raises(EngineError, match=r"1 numbers of blk\.1\.ffn_up\.weight"):
        verify_gguf(path, llama.model, tokenizer, kind="q8_0")


def test_llama3_scaling_is_a_tensor_of_factors(tmp_path: Path) -> None:
    loaded = load_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE, rope_parameters=LLAMA3_ROPE), split="llama-bpe")
    path, _ = write(loaded, tmp_path / "a.gguf", "f16")

    place = next(place for place in read_gguf_header(path).tensors if place.name == "rope_freqs.weight")

    factors = np.fromfile(path, dtype=np.float32, count=4, offset=place.file_offset)
    plain = 1.0 / 500_000.0 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(plain / factors, loaded.model.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0)


def test_the_file_has_the_keys_that_llama_cpp_reads(llama: LoadedModel, tmp_path: Path) -> None:
    """Source: llama.cpp, src/llama-arch.cpp and the hyperparameters that its architecture `llama` requires."""
    path, _ = write(llama, tmp_path / "a.gguf", "q8_0")
    metadata = read_gguf_header(path).metadata
    assert {key: value for key, value in metadata.items() if not isinstance(value, list)} == {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "llama.vocab_size": VOCAB_SIZE,
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 100_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": llama.tokenizer.chat_template,
    }
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == VOCAB_SIZE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (make_config("Gemma 2"), "Gemma2ForCausalLM cannot be written as GGUF, only LlamaForCausalLM"),
        (make_config("Mistral, window"), "window of 4 tokens"),
        (make_config("Qwen2, window"), "window of 4 tokens"),
        (LlamaConfig(**TINY_SHAPE, mlp_bias=True), "biases in its MLP"),
        (LlamaConfig(**TINY_SHAPE, rope_parameters=rope(1e4, factor=2.0) | {"rope_type": "dynamic"}), "as 'dynamic'"),
    ],
)
def test_a_model_that_llama_cpp_computes_differently_is_refused(
    tmp_path: Path, config: PreTrainedConfig, message: str
) -> None:
    loaded = load_base(tmp_path / "base", config)
    with pytest.raises(BadSpec, match=message):
        check_gguf(loaded.model, loaded.tokenizer)


def test_a_weight_beyond_float16_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    loaded = load_base(tmp_path / "base", LlamaConfig(**TINY_SHAPE))
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(BadSpec, match=r"blk\.0\.ffn_up\.weight exceeds .* 'q8_0'"):
        write(loaded, tmp_path / "a.gguf", "f16")


def test_rows_that_do_not_divide_into_blocks_stay_16_bit(tmp_path: Path) -> None:
    config = LlamaConfig(**(TINY_SHAPE | {"hidden_size": 40, "num_attention_heads": 4}), head_dim=8)
    path, error = write(load_base(tmp_path / "base", config), tmp_path / "a.gguf", "q8_0")
    kinds = {place.name: place.ggml_type.name for place in read_gguf_header(path).tensors}
    assert kinds["blk.0.ffn_up.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert error.relative_error < 0.01


def test_rows_of_the_embedding_without_a_token_are_marked_as_unused(tmp_path: Path) -> None:
    loaded = load_base(tmp_path / "base", LlamaConfig(**(TINY_SHAPE | {"vocab_size": 400})))
    path, _ = write(loaded, tmp_path / "a.gguf", "f16")
    metadata = read_gguf_header(path).metadata
    assert metadata["tokenizer.ggml.tokens"][399] == "[PAD399]"
    assert metadata["tokenizer.ggml.token_type"][399] == 5
    assert json.loads(json.dumps(metadata["tokenizer.ggml.tokens"][:2])) == ["<|im_start|>", "<|im_end|>"]
