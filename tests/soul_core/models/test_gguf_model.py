from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.tiny_architectures import build_tiny, make_config
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadModel
from soul_core.models import gguf
from soul_core.models.files import inspect_model
from soul_core.models.gguf import convert_to_folder
from soul_core.models.gguf_header import read_gguf_header
from tests.fixtures.tiny_gguf import write_gguf

torch.set_num_threads(1)

TEXT = "In 1995 the capital of France  was\n\nParis, it's 3.14!<|im_end|> caf\u00e9 \U0001f600"
TIED = LlamaConfig(**{**make_config("Llama").to_dict(), "tie_word_embeddings": True})


def logits(model, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(token_ids).logits


@pytest.mark.parametrize(
    ("config", "kind", "tolerance"),
    [
        (make_config("Llama"), GGMLQuantizationType.F32, 0.0),
        (TIED, GGMLQuantizationType.F32, 0.0),
        (TIED, GGMLQuantizationType.F16, 2e-3),
        (TIED, GGMLQuantizationType.Q8_0, 2e-2),
        (TIED, GGMLQuantizationType.Q4_1, 2e-1),
    ],
)
def test_the_folder_holds_the_weights_of_the_original_model(tmp_path, config, kind, tolerance):
    model = build_tiny(config)
    path = write_gguf(tmp_path / "a.gguf", model, make_tiny_tokenizer(), kind=kind)
    folder = convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.config.tie_word_embeddings == config.tie_word_embeddings
    assert (again.config.eos_token_id, again.config.pad_token_id) == (1, 1)
    for name, weight in model.state_dict().items():
        assert (again.state_dict()[name] - weight).abs().max() <= tolerance * weight.abs().max(), name
    if not tolerance:
        token_ids = torch.tensor([[5, 9, 200, 31, 7]])
        torch.testing.assert_close(logits(again, token_ids), logits(model, token_ids))


def test_a_tensor_larger_than_one_read_is_complete(tmp_path, monkeypatch):
    """A kernel gives at most 2 GiB a call; here a call asks for a hundred bytes."""
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer(), kind=GGMLQuantizationType.Q8_0)
    digest = inspect_model(path).digest
    whole = convert_to_folder(path, digest=digest, cache_dir=tmp_path / "whole")
    monkeypatch.setattr(gguf, "_MAX_READ_BYTES", 100)

    in_parts = convert_to_folder(path, digest=digest, cache_dir=tmp_path / "parts")

    assert compute_sha256(in_parts / "model.safetensors") == compute_sha256(whole / "model.safetensors")


def test_the_tokenizer_splits_digits_and_keeps_special_tokens_and_template(tmp_path):
    original = make_tiny_tokenizer()
    original.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), original)
    again = AutoTokenizer.from_pretrained(
        convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")
    )
    assert again(TEXT)["input_ids"] == original(TEXT)["input_ids"]
    assert again.decode(again(TEXT)["input_ids"]) == TEXT
    assert again.chat_template == original.chat_template
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (0, 1, 1)
    assert again.tokenize("1995") == ["1", "9", "9", "5"]


def test_the_second_call_uses_the_existing_folder(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer())
    digest = inspect_model(path).digest
    folder = convert_to_folder(path, digest=digest, cache_dir=tmp_path / "cache")
    path.unlink()
    assert convert_to_folder(path, digest=digest, cache_dir=tmp_path / "cache") == folder


def test_a_conversion_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("soul_core.models.gguf.save_file", full)
    with pytest.raises(OSError, match="No space"):
        convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "rwkv7"}, "'rwkv7' cannot be read"),
        ({"tokenizer_model": "t5"}, "only byte-level BPE"),
        ({"split": "klingon"}, "'klingon'"),
        ({"skip": "mlp.up_proj"}, "lacks tensors"),
    ],
)
def test_a_file_that_cannot_be_converted_exactly_is_refused(tmp_path, options, message):
    path = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer(), **options)
    with pytest.raises(BadModel, match=message):
        convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")


def test_a_header_is_checked_byte_by_byte(tmp_path):
    """Cut anywhere, or with any length field blown up, the file is refused and never crashes the reader."""
    whole = write_gguf(tmp_path / "a.gguf", build_tiny(TIED), make_tiny_tokenizer()).read_bytes()
    bad = tmp_path / "bad.gguf"
    for length in [4, 5, 23, 24, 60, 300, 3000, len(whole) // 2, len(whole) - 1]:
        bad.write_bytes(whole[:length])
        with pytest.raises(BadModel):
            read_gguf_header(bad)
    for position in range(8, 200):
        bad.write_bytes(whole[:position] + b"\xff" * 8 + whole[position + 8 :])
        try:
            read_gguf_header(Path(bad))
        except BadModel:
            continue
