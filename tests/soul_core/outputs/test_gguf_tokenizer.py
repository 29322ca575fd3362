"""Which tokenizers GGUF has words for, and that all others are refused before anything is written."""

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
from tests.soul_core.outputs.bases import tokenizer_split_as


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_llama_cpps_name_follows_from_the_rules_not_from_the_vocabulary(split: str) -> None:
    words = make_gguf_tokenizer(tokenizer_split_as(split), vocab_size=VOCAB_SIZE)
    assert words.pre_tokenizer == split
    assert words.notes == ()


def test_special_tokens_are_control_tokens_and_others_that_were_added_user_defined() -> None:
    tokenizer = tokenizer_split_as("gpt-2")
    tokenizer.add_tokens(["<tool>"])
    words = make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE + 10)
    kinds = {
        words.tokens[index]: words.token_types[index] for index in (0, 1, 10, tokenizer.convert_tokens_to_ids("<tool>"))
    }
    assert list(kinds.values()) == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL, TokenType.USER_DEFINED]


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True), (False, False)])
def test_what_is_put_around_a_text_is_written_down(before: bool, after: bool) -> None:
    tokenizer = tokenizer_split_as("gpt-2")
    single = " ".join(["<|im_start|>"] * before + ["$A"] + ["<|im_end|>"] * after)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[("<|im_start|>", 0), ("<|im_end|>", 1)]
    )
    words = make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE)
    assert (words.add_bos, words.add_eos) == (before, after)


def test_a_tokenizer_that_composes_marks_is_told_to_do_what_llama_cpp_does_not() -> None:
    tokenizer = tokenizer_split_as("qwen2")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert "NFC" in make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE).notes[0]


def test_words_that_llama_cpp_would_not_merge_are_found_one_by_one() -> None:
    """llama.cpp takes a whole word that is a token; these merges cannot make `abc`, though it is in the vocabulary."""
    tokenizer = tokenizer_split_as("llama-bpe")
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    assert make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE).pre_tokenizer == "llama-bpe"
    told["model"]["vocab"]["abc"] = len(told["model"]["vocab"])
    unmergeable = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    with pytest.raises(BadModel, match=r"would merge 1 words otherwise, for example 'abc'"):
        make_gguf_tokenizer(unmergeable, vocab_size=VOCAB_SIZE + 10)
    told["model"]["ignore_merges"] = True
    as_llama_cpp = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    assert make_gguf_tokenizer(as_llama_cpp, vocab_size=VOCAB_SIZE + 10).pre_tokenizer == "llama-bpe"


def sentencepiece_like(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()


def spaced(tokenizer: Any) -> None:
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
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    model = models.BPE(told["model"]["vocab"], [tuple(merge) for merge in told["model"]["merges"]])
    model.end_of_word_suffix = "@"
    tokenizer.backend_tokenizer.model = model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (sentencepiece_like, "no name for its way of splitting text"),
        (spaced, "no name for its way of splitting text"),
        (lower, r"rewrites text first \(Lowercase\)"),
        (strips, "takes white space along"),
        (frames, "puts other tokens around a text"),
        (suffixes, "end_of_word_suffix"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_say_exactly_is_refused(change: Callable[[Any], None], reason: str) -> None:
    tokenizer = tokenizer_split_as("gpt-2")
    change(tokenizer)
    with pytest.raises(BadModel, match=rf"{reason}.*set export\.gguf to 'none'"):
        make_gguf_tokenizer(tokenizer, vocab_size=VOCAB_SIZE + 10)


def test_another_way_of_splitting_is_refused_by_its_rule() -> None:
    with pytest.raises(BadModel, match=r"\[a-z\]\+"):
        make_gguf_tokenizer(tokenizer_split_as("letters"), vocab_size=VOCAB_SIZE)
