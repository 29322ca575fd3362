"""Tokenizers that GGUF can represent, and errors for all others before a file is written."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bench.tiny_tokenizer import VOCAB_SIZE
from soul_core.errors import BadModel
from soul_core.outputs.gguf_tokenizer import make_gguf_tokenizer
from tests.soul_core.outputs.bases import make_tokenizer


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_name_for_llama_cpp_follows_from_the_rules(split: str) -> None:
    words = make_gguf_tokenizer(make_tokenizer(split), vocab_size=VOCAB_SIZE)
    assert words.pre_tokenizer == split
    assert words.notes == ()


def test_added_tokens_are_control_or_user_defined_tokens() -> None:
    tokenizer = make_tokenizer("gpt-2")
    tokenizer.add_tokens(["<tool>"])
    words = make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE + 10)
    kinds = {
        words.tokens[index]: words.token_types[index] for index in (0, 1, 10, tokenizer.convert_tokens_to_ids("<tool>"))
    }
    assert list(kinds.values()) == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL, TokenType.USER_DEFINED]


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_file_says_which_tokens_are_added_to_a_text(before: bool, after: bool) -> None:
    tokenizer = make_tokenizer("gpt-2")
    single = " ".join(["<|im_start|>"] * before + ["$A"] + ["<|im_end|>"] * after)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[("<|im_start|>", 0), ("<|im_end|>", 1)]
    )
    words = make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE)
    assert (words.add_bos, words.add_eos) == (before, after)


def test_a_normalizing_tokenizer_has_a_note_that_llama_cpp_does_not_normalize() -> None:
    tokenizer = make_tokenizer("qwen2")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert "normal form C" in make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE).notes[0]


def test_words_that_llama_cpp_would_not_merge_are_an_error() -> None:
    """llama.cpp uses a complete word that is a token; these merges cannot produce `abc`, which is a token."""
    tokenizer = make_tokenizer("llama-bpe")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    assert make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE).pre_tokenizer == "llama-bpe"
    content["model"]["vocab"]["abc"] = len(content["model"]["vocab"])
    unmergeable = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    with pytest.raises(BadModel, match=r"would merge 1 words differently, for example 'abc'"):
        make_gguf_tokenizer(unmergeable, vocab_size=VOCAB_SIZE + 10)
    content["model"]["ignore_merges"] = True
    as_llama_cpp = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    assert make_gguf_tokenizer(as_llama_cpp, vocab_size=VOCAB_SIZE + 10).pre_tokenizer == "llama-bpe"


def sentencepiece_like(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()


def split_at_spaces(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def lower(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def strips(tokenizer: Any) -> None:
    tokenizer.add_tokens([AddedToken("<end>", rstrip=True)])


def frames(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="$A $B", special_tokens=[("<|endoftext|>", VOCAB_SIZE - 1)]
    )


def suffixes(tokenizer: Any) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = models.BPE(content["model"]["vocab"], [tuple(merge) for merge in content["model"]["merges"]])
    model.end_of_word_suffix = "@"
    tokenizer.backend_tokenizer.model = model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sentencepiece_like, "no name for its rules that split text"),
        (split_at_spaces, "no name for its rules that split text"),
        (lower, r"normalizes text \(Lowercase\)"),
        (strips, "absorbs adjacent white space"),
        (frames, "adds other tokens to a text"),
        (suffixes, "end_of_word_suffix"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_represent_is_refused(change: Callable[[Any], None], reason: str) -> None:
    tokenizer = make_tokenizer("gpt-2")
    change(tokenizer)
    with pytest.raises(BadModel, match=rf"{reason}.*set export\.gguf to 'none'"):
        make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE + 10)


def test_other_rules_that_split_text_are_refused_by_name() -> None:
    with pytest.raises(BadModel, match=r"\[a-z\]\+"):
        make_gguf_tokenizer(make_tokenizer("letters"), vocab_size=VOCAB_SIZE)
