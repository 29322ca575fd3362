"""A byte-level BPE tokenizer in GGUF's words, where they can say exactly how it splits text; an error where not.

llama.cpp knows each way of splitting by a name (`tokenizer.ggml.pre`) and has the rules in its own code, so the rules
in tokenizer.json must be the ones that it keeps under that name. Source: llama.cpp, src/llama-vocab.cpp.
"""

import json
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from soul_core.errors import BadModel

#: The published rules of the models that the names stand for.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
#: Name -> llama.cpp takes a word that is a token without merging it.
_IGNORES_MERGES = {"gpt-2": False, "smollm": False, "qwen2": False, "llama-bpe": True}
_REMEDY = "set export.gguf to 'none' and let llama.cpp's own converter read the checkpoint, if it knows the tokenizer"


@dataclass(frozen=True)
class GgufTokenizer:
    """What is written of a tokenizer. `notes` say where llama.cpp's reading of text may differ."""

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
        """Write it into a file's metadata."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre_tokenizer)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.token_types))
        writer.add_token_merges(list(self.merges))
        add = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id}
        add |= {"unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id}
        for name, token_id in self.special_token_ids.items():
            add[name](token_id)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(False)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def make_gguf_tokenizer(tokenizer: PreTrainedTokenizerBase, *, vocab_size: int) -> GgufTokenizer:
    """Return the tokenizer in GGUF's words. `vocab_size` is the number of rows of the embedding.

    Raises BadModel naming what GGUF cannot say of it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("it has no tokenizer.json")
    told = json.loads(backend.to_str())
    pre = _split_name(told)
    _require_plain_bpe(told)
    _require_plain_added_tokens(told)
    if _IGNORES_MERGES[pre] != bool(told["model"].get("ignore_merges")):
        _require_merges_make_no_difference(backend, told)
    add_bos, add_eos = _frame(tokenizer)
    tokens, types = _tokens(told, vocab_size)
    template = tokenizer.chat_template
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unk": tokenizer.unk_token_id}
    ids["pad"] = tokenizer.pad_token_id
    return GgufTokenizer(
        pre_tokenizer=pre,
        tokens=tokens,
        token_types=types,
        merges=tuple(_joined(merge) for merge in told["model"]["merges"]),
        special_token_ids={name: token_id for name, token_id in ids.items() if token_id is not None},
        add_bos=add_bos,
        add_eos=add_eos,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        notes=("llama.cpp does not bring text into Unicode's form NFC, which this tokenizer does",)
        if told["normalizer"]
        else (),
    )


def _refused(reason: str) -> BadModel:
    return BadModel(f"export.gguf: the tokenizer cannot be written exactly as GGUF: {reason}; {_REMEDY}")


def _split_name(told: dict[str, Any]) -> str:
    """Return llama.cpp's name for how text is split before the merges."""
    parts = told["pre_tokenizer"] or {"type": "nothing"}
    steps = [_step(part) for part in parts["pretokenizers"]] if parts["type"] == "Sequence" else [_step(parts)]
    normalizer = (told["normalizer"] or {"type": None})["type"]
    known = {
        ("byte level with words",): "gpt-2",
        ("single digits", "byte level with words"): "smollm",
        (_LLAMA3, "byte level"): "llama-bpe",
        (_QWEN2, "byte level"): "qwen2",
    }
    name = known.get(tuple(steps))
    if name is None:
        raise _refused(f"llama.cpp has no name for its way of splitting text ({', '.join(steps)[:200]})")
    if normalizer is not None and not (name == "qwen2" and normalizer == "NFC"):
        raise _refused(f"it rewrites text first ({normalizer})")
    return name


def _step(part: dict[str, Any]) -> str:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return "byte level with words" if use_regex else "byte level"
        case {"type": "Digits", "individual_digits": True}:
            return "single digits"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return str(pattern)
    return f"{part['type']} with other settings"


def _require_plain_bpe(told: dict[str, Any]) -> None:
    model = told["model"]
    if model["type"] != "BPE" or (told["decoder"] or {}).get("type") != "ByteLevel":
        raise _refused(f"it is {model['type']} with another decoder than byte-level BPE's")
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _refused(f"its BPE has the setting {key}")


def _require_plain_added_tokens(told: dict[str, Any]) -> None:
    """Refuse tokens that take spaces beside them along: GGUF has no word for that."""
    for token in told["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise _refused(f"its token {token['content']!r} takes white space along, or is found in whole words only")


def _require_merges_make_no_difference(backend: Any, told: dict[str, Any]) -> None:
    """Refuse unless every token that can be a word is also what the merges make of that word."""
    added = {token["content"] for token in told["added_tokens"]}
    texts = {token: backend.decoder.decode([token]) for token in told["model"]["vocab"] if token not in added}
    words = {token: text for token, text in texts.items() if text and "\ufffd" not in text}
    other = json.loads(json.dumps(told))
    other["model"]["ignore_merges"] = not told["model"].get("ignore_merges")
    again = type(backend).from_str(json.dumps(other))
    pairs = zip(
        words,
        backend.encode_batch_fast(list(words.values()), add_special_tokens=False),
        again.encode_batch_fast(list(words.values()), add_special_tokens=False),
        strict=True,
    )
    if wrong := [token for token, ours, theirs in pairs if ours.ids != theirs.ids]:
        raise _refused(f"llama.cpp would merge {len(wrong)} words otherwise, for example {wrong[0]!r}")


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether every text begins with BOS, and ends with EOS."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a")["input_ids"])
    for add_bos in (False, True):
        for add_eos in (False, True):
            if framed == [tokenizer.bos_token_id] * add_bos + bare + [tokenizer.eos_token_id] * add_eos:
                return add_bos, add_eos
    raise _refused("it puts other tokens around a text than BOS before and EOS after it")


def _tokens(told: dict[str, Any], vocab_size: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return every token by its id, with its type; rows of the embedding without a token are named as unused."""
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [int(TokenType.UNUSED)] * vocab_size
    for token, index in told["model"]["vocab"].items():
        tokens[index], types[index] = token, int(TokenType.NORMAL)
    for added in told["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    return tuple(tokens), tuple(types)


def _joined(merge: Any) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)
