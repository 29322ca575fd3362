"""A byte-level BPE tokenizer in GGUF's terms, or an error if GGUF cannot represent it exactly.

llama.cpp identifies the rules that split text by a name (`tokenizer.ggml.pre`) and has the rules in its own code, so
tokenizer.json must have the rules that llama.cpp has for this name. Source: llama.cpp, src/llama-vocab.cpp.
"""

import json
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from soul_core.errors import BadModel

#: The published rules of the models after which the names are called.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
#: Name -> whether llama.cpp uses a word that is a token without applying merges.
_IGNORES_MERGES = {"gpt-2": False, "smollm": False, "qwen2": False, "llama-bpe": True}
_REMEDY = (
    "set export.gguf to 'none', and convert the checkpoint with llama.cpp's own converter if it supports the tokenizer"
)


@dataclass(frozen=True)
class GgufTokenizer:
    """The metadata of a tokenizer. `notes` describe how llama.cpp's tokens may differ."""

    pre_tokenizer: str
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    special_token_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    notes: tuple[str, ...]

    def write_metadata(self, writer: GGUFWriter) -> None:
        """Write the metadata to a file."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre_tokenizer)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.token_types))
        writer.add_token_merges(list(self.merges))
        methods = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id}
        methods |= {"unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id}
        for name, token_id in self.special_token_ids.items():
            methods[name](token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(False)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def make_gguf_tokenizer(tokenizer: PreTrainedTokenizerBase, *, vocab_size: int) -> GgufTokenizer:
    """Return the tokenizer in GGUF's terms. `vocab_size` is the number of rows of the embedding.

    Raises BadModel with the property that GGUF cannot represent.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _make_error("it has no tokenizer.json")
    content = json.loads(backend.to_str())
    pre_tokenizer = _find_pre_tokenizer(content)
    _require_plain_bpe(content)
    _require_plain_added_tokens(content)
    if _IGNORES_MERGES[pre_tokenizer] != bool(content["model"].get("ignore_merges")):
        _require_merges_make_no_difference(backend, content)
    add_bos, add_eos = _find_added_tokens(tokenizer)
    tokens, types = _list_tokens(content, vocab_size)
    template = tokenizer.chat_template
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unk": tokenizer.unk_token_id}
    ids["pad"] = tokenizer.pad_token_id
    return GgufTokenizer(
        pre_tokenizer=pre_tokenizer,
        tokens=tokens,
        token_types=types,
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]),
        special_token_ids={name: token_id for name, token_id in ids.items() if token_id is not None},
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        notes=("llama.cpp does not convert text to Unicode normal form C, which this tokenizer does.",)
        if content["normalizer"]
        else (),
    )


def _make_error(reason: str) -> BadModel:
    return BadModel(f"export.gguf: the tokenizer cannot be written exactly as GGUF: {reason}; {_REMEDY}")


def _find_pre_tokenizer(content: dict[str, Any]) -> str:
    """Return llama.cpp's name for the rules that split text before the merges."""
    parts = content["pre_tokenizer"] or {"type": "none"}
    steps = (
        [_describe_step(part) for part in parts["pretokenizers"]]
        if parts["type"] == "Sequence"
        else [_describe_step(parts)]
    )
    normalizer = (content["normalizer"] or {"type": None})["type"]
    known = {
        ("byte level with words",): "gpt-2",
        ("single digits", "byte level with words"): "smollm",
        (_LLAMA3, "byte level"): "llama-bpe",
        (_QWEN2, "byte level"): "qwen2",
    }
    name = known.get(tuple(steps))
    if name is None:
        raise _make_error(f"llama.cpp has no name for its rules that split text ({', '.join(steps)[:200]})")
    if normalizer is not None and not (name == "qwen2" and normalizer == "NFC"):
        raise _make_error(f"it normalizes text ({normalizer})")
    return name


def _describe_step(part: dict[str, Any]) -> str:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return "byte level with words" if use_regex else "byte level"
        case {"type": "Digits", "individual_digits": True}:
            return "single digits"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return str(pattern)
    return f"{part['type']} with other settings"


def _require_plain_bpe(content: dict[str, Any]) -> None:
    model = content["model"]
    if model["type"] != "BPE" or (content["decoder"] or {}).get("type") != "ByteLevel":
        raise _make_error(f"it is not byte-level BPE (model {model['type']})")
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _make_error(f"its BPE has the setting {key}")


def _require_plain_added_tokens(content: dict[str, Any]) -> None:
    """Refuse added tokens that absorb adjacent spaces: GGUF cannot represent them."""
    for token in content["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise _make_error(
                f"its token {token['content']!r} absorbs adjacent white space, or matches complete words only"
            )


def _require_merges_make_no_difference(backend: Any, content: dict[str, Any]) -> None:
    """Refuse unless the merges produce every token that can be a word from that word."""
    added = {token["content"] for token in content["added_tokens"]}
    texts = {token: backend.decoder.decode([token]) for token in content["model"]["vocab"] if token not in added}
    words = {token: text for token, text in texts.items() if text and "\ufffd" not in text}
    other = json.loads(json.dumps(content))
    other["model"]["ignore_merges"] = not content["model"].get("ignore_merges")
    again = type(backend).from_str(json.dumps(other))
    pairs = zip(
        words,
        backend.encode_batch_fast(list(words.values()), add_special_tokens=False),
        again.encode_batch_fast(list(words.values()), add_special_tokens=False),
        strict=True,
    )
    if wrong := [token for token, ours, theirs in pairs if ours.ids != theirs.ids]:
        raise _make_error(f"llama.cpp would merge {len(wrong)} words differently, for example {wrong[0]!r}")


def _find_added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether the tokenizer adds BOS before, and EOS after, every text."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a")["input_ids"])
    for add_bos in (False, True):
        for add_eos in (False, True):
            if framed == [tokenizer.bos_token_id] * add_bos + bare + [tokenizer.eos_token_id] * add_eos:
                return add_bos, add_eos
    raise _make_error("it adds other tokens to a text than BOS before and EOS after it")


def _list_tokens(content: dict[str, Any], vocab_size: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return all tokens and their types, by id. Rows of the embedding without a token are marked as unused."""
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    for token, index in content["model"]["vocab"].items():
        tokens[index], types[index] = token, int(TokenType.NORMAL)
    for added in content["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    return tuple(tokens), tuple(types)
