"""The tokenizer's files: the base model's own if nothing changed, readable by transformers 4.57."""

import json
from pathlib import Path

from transformers import AutoTokenizer, LlamaConfig

from bench.tiny_architectures import TINY_SHAPE
from soul_core.models.loading import load_model
from tests.soul_core.outputs.bases import export_as_run, save_base

CONFIG = LlamaConfig(**TINY_SHAPE)
TEXT = "What is 1995? Don't <tool> <|im_end|> 日本語"


def test_files_written_by_4x_are_copied_byte_by_byte(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", CONFIG)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    own |= {"chat_template": template, "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}')

    out = export_as_run(load_model(folder, device="cpu"), tmp_path / "out")

    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name
    assert not (out / "chat_template.jinja").exists()


def test_keys_of_5x_are_rewritten_for_both_versions(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", CONFIG)
    content = json.loads((folder / "tokenizer_config.json").read_text())
    content |= {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": True}
    content |= {"extra_special_tokens": ["<|endoftext|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    loaded = load_model(folder, device="cpu")

    out = export_as_run(loaded, tmp_path / "out")

    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|endoftext|>"]
    assert not {"backend", "is_local", "local_files_only", "extra_special_tokens"} & written.keys()
    again = AutoTokenizer.from_pretrained(out)
    assert again(TEXT)["input_ids"] == loaded.tokenizer(TEXT)["input_ids"]
    assert set(again.all_special_tokens) == set(loaded.tokenizer.all_special_tokens)


def test_a_template_of_the_user_replaces_that_of_the_base_model(tmp_path: Path) -> None:
    loaded = load_model(save_base(tmp_path / "base", CONFIG), device="cpu")
    loaded.tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    out = export_as_run(loaded, tmp_path / "out")
    assert (
        AutoTokenizer.from_pretrained(out).apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        == "a!"
    )
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()


def test_a_tokenizer_with_additional_tokens_is_written_anew(tmp_path: Path) -> None:
    loaded = load_model(save_base(tmp_path / "base", CONFIG), device="cpu")
    loaded.tokenizer.add_tokens(["<tool>"])
    out = export_as_run(loaded, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out)(TEXT)["input_ids"] == loaded.tokenizer(TEXT)["input_ids"]
