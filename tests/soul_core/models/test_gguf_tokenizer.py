"""SentencePiece vocabularies of GGUF files give the tokens of llama.cpp, by a second implementation of its rule."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from transformers import AutoTokenizer, Gemma2Config, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerBase

from bench.tiny_architectures import TINY_SHAPE, build_tiny
from bench.tiny_tokenizer import make_tiny_tokenizer
from soul_core.errors import BadModel
from soul_core.models.files import inspect_model
from soul_core.models.gguf import convert_to_folder
from tests.fixtures.tiny_gguf import write_any_gguf

SPACE = "\u2581"
PIECES = [
    "he",
    "ll",
    "hell",
    "hello",
    f"{SPACE}h",
    f"{SPACE}hell",
    "lo",
    "wor",
    "ld",
    f"{SPACE}wor",
    f"{SPACE}world",
    "or",
]
PIECES += ["o", *"helwrdnu,."]
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, SPACE * 2, *dict.fromkeys(PIECES)]
TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(TOKENS) - 259)]
CONFIG = LlamaConfig(**{**TINY_SHAPE, "vocab_size": len(TOKENS)})
#: As in SentencePiece: the later a piece was learned, the lower its score; letters are lowest.
SCORES = [0.0] * 259 + [float(-index) for index in range(len(TOKENS) - 259)]
TEXTS = [
    "hello world",
    "  hello  world ",
    "",
    "w",
    "hello, n\u00e9 \U0001f600 world.",
    *(
        " ".join("".join(random.Random(seed * 31 + i).choices("helowrd, ", k=7)) for i in range(4))
        for seed in range(20)
    ),
]


def tokenize_as_llama_cpp(text: str, *, space_prefix: bool) -> list[int]:
    """Merge the neighbors whose joint piece has the highest score, the leftmost of equals, until none is a piece."""
    if not text:
        return []
    symbols = list(((" " if space_prefix else "") + text).replace(" ", SPACE))
    ids = {token: index for index, token in enumerate(TOKENS)}
    while True:
        joint = [(SCORES[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not joint:
            break
        place = -max(joint)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    token_ids: list[int] = []
    for symbol in symbols:
        token_ids += [ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()]
    return token_ids


def tokenizer_of(
    folder: Path, *, config: PreTrainedConfig = CONFIG, spaces_as_they_are: bool = False, **keys: Any
) -> PreTrainedTokenizerBase:
    def add_vocabulary(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([token.replace(SPACE * 2, "  ") if spaces_as_they_are else token for token in TOKENS])
        writer.add_token_types(
            [4 if spaces_as_they_are and t == SPACE * 2 else k for t, k in zip(TOKENS, TYPES, strict=True)]
        )
        writer.add_token_scores(SCORES)
        for name, value in keys.items():
            (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(f"tokenizer.ggml.{name}", value)

    model = build_tiny(config)
    path = write_any_gguf(folder / "a.gguf", model, make_tiny_tokenizer(), add_vocabulary=add_vocabulary)
    return AutoTokenizer.from_pretrained(
        convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=folder / "cache")
    )


@pytest.mark.parametrize("space_prefix", [None, True, False])
def test_a_sentencepiece_vocabulary_gives_the_tokens_of_llama_cpp(space_prefix: bool | None, tmp_path: Path) -> None:
    keys = {} if space_prefix is None else {"add_space_prefix": space_prefix}
    tokenizer = tokenizer_of(tmp_path, **keys)

    for text in TEXTS:
        expected = tokenize_as_llama_cpp(text, space_prefix=space_prefix is not False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text
        assert tokenizer.decode(expected) == text


@pytest.mark.parametrize(
    ("keys", "begin", "end"),
    [
        ({}, [1], []),
        ({"add_bos_token": False}, [], []),
        ({"add_eos_token": True}, [1], [2]),
        ({"bos_token_id": 2}, [2], []),
        ({"bos_token_id": 2**32 - 1}, [1], []),
    ],
    ids=["no key", "no bos", "eos too", "another bos", "an id outside the vocabulary"],
)
def test_begin_and_end_of_a_text_follow_the_defaults_of_llama_cpp(
    keys: dict[str, Any], begin: Sequence[int], end: Sequence[int], tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(tmp_path, **keys)

    ids = tokenizer("hello world")["input_ids"]

    assert ids == [*begin, *tokenize_as_llama_cpp("hello world", space_prefix=True), *end]
    assert (tokenizer.eos_token, tokenizer.unk_token) == ("</s>", "<unk>")


def test_gemmas_runs_of_spaces_are_tokens_as_in_sentencepiece(tmp_path: Path) -> None:
    gemma = Gemma2Config(**{**TINY_SHAPE, "vocab_size": len(TOKENS)}, head_dim=8, query_pre_attn_scalar=8)

    tokenizer = tokenizer_of(tmp_path, config=gemma, spaces_as_they_are=True, add_space_prefix=False)

    assert tokenizer("o  o", add_special_tokens=False)["input_ids"] == [TOKENS.index(t) for t in ("o", SPACE * 2, "o")]
    assert all(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text for text in TEXTS)


def test_a_vocabulary_without_scores_is_refused(tmp_path: Path) -> None:
    def add_vocabulary(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(TOKENS)

    model = build_tiny(LlamaConfig(**{**TINY_SHAPE, "vocab_size": len(TOKENS)}))
    path = write_any_gguf(tmp_path / "a.gguf", model, make_tiny_tokenizer(), add_vocabulary=add_vocabulary)

    with pytest.raises(BadModel, match="does not have one score per token"):
        convert_to_folder(path, digest=inspect_model(path).digest, cache_dir=tmp_path / "cache")
