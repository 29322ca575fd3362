"""llama.cpp's defaults for the keys that a GGUF file leaves out. Torch-free.

Source: llama.cpp, `llama_vocab::impl::load` (src/llama-vocab.cpp) for the tokenizer, and src/llama-model.cpp for the
general hyperparameters, as of 2026. A key in the file takes precedence over a default.
"""

from dataclasses import dataclass
from typing import Any

from soul_core.errors import BadModel
from soul_core.models.gguf_header import GgufHeader

CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

#: `tokenizer.ggml.pre` of byte-level vocabularies that llama.cpp splits as Llama 3 does.
LLAMA3_PRE_TOKENIZERS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
)
#: Byte-level vocabularies that begin a text with BOS unless the file says otherwise.
_BPE_WITH_BOS = LLAMA3_PRE_TOKENIZERS | {"tekken", "chameleon"}
#: Those that encode a word that is a token as this token, whatever the merges say.
IGNORE_MERGES_PRE_TOKENIZERS = LLAMA3_PRE_TOKENIZERS | {"tekken", "youtu", "minicpm5", "granite-embed-multi-97m"}
#: Ids of special tokens by kind of vocabulary (tokenizer.ggml.model): begin, end, unknown.
_SPECIAL: dict[str, tuple[int | None, int | None, int | None]] = {"llama": (1, 2, 0), "gpt2": (11, 11, None)}
#: Tokens that end a turn or a generation, by their text, if no key names them.
_END_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<|return|>",
    "<|call|>",
    "<|end_of_turn|>",
)


@dataclass(frozen=True, slots=True)
class GgufTokenizerSettings:
    """The tokenizer's settings with every default filled in. `end_ids`: all tokens that end a generation."""

    kind: str
    pre_tokenizer: str
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int | None
    end_ids: tuple[int, ...]


def read_tokenizer_settings(header: GgufHeader) -> GgufTokenizerSettings:
    """Return the tokenizer's settings. Raises BadModel for a file that contradicts itself."""
    metadata = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()}
    kind, pre_tokenizer = str(metadata.get("model")), str(metadata.get("pre") or "default")
    tokens = metadata.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise BadModel("the GGUF file holds no vocabulary (tokenizer.ggml.tokens); convert the model again")
    types = metadata.get("token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise BadModel(
            f"the GGUF file has {len(tokens)} tokens, but {len(types)} token types (tokenizer.ggml.token_type); "
            "convert the model again"
        )
    bos, eos, unknown = _SPECIAL.get(kind, (None, None, None))
    if kind == "gpt2":
        # Falcon's id 11 is a letter in other vocabularies: the default applies only if it is a control token
        bos = eos = 11 if len(types) > 11 and types[11] == CONTROL else None
    ids = {
        name: _get_token_id(metadata, name, len(tokens), default)
        for name, default in (
            ("bos", bos),
            ("eos", eos),
            ("unknown", unknown),
            ("padding", None),
            ("eot", None),
            ("eom", None),
        )
    }
    add_bos = bool(metadata.get("add_bos_token", kind == "llama" or pre_tokenizer in _BPE_WITH_BOS))
    if add_bos and ids["bos"] is None:
        raise BadModel(
            "texts of this GGUF file begin with BOS, but the file does not name that token "
            "(tokenizer.ggml.bos_token_id); convert the model again, or give it as a safetensors folder"
        )
    by_text = [
        index
        for index, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if token in _END_OF_TURN and type_ == CONTROL
    ]
    end_ids = dict.fromkeys(i for i in (ids["eos"], ids["eot"], ids["eom"], *by_text) if i is not None)
    return GgufTokenizerSettings(
        kind=kind,
        pre_tokenizer=pre_tokenizer,
        tokens=tuple(tokens),
        token_types=tuple(types),
        add_bos=add_bos,
        add_eos=bool(metadata.get("add_eos_token", False)),
        add_space_prefix=bool(metadata.get("add_space_prefix", kind == "llama")),
        bos_id=ids["bos"],
        eos_id=ids["eos"] if ids["eos"] is not None else next(iter(end_ids), None),
        unk_id=ids["unknown"],
        pad_id=ids["padding"],
        end_ids=tuple(end_ids),
    )


def get_number_or(header: GgufHeader, key: str, default: float) -> float:
    """Return `<architecture>.<key>`, or the default if the file has no such key. Raises BadModel for other types."""
    return header.get_number(key) if f"{header.architecture}.{key}" in header.metadata else default


def get_head_counts(header: GgufHeader) -> tuple[int, int, int]:
    """Return the number of query heads, of key and value heads (default: as many), and a head's size (default: hidden
    size / heads).
    """
    num_heads = int(header.get_number("attention.head_count"))
    num_kv_heads = int(get_number_or(header, "attention.head_count_kv", num_heads))
    if num_heads < 1 or num_kv_heads < 1:
        raise BadModel("the GGUF file has a model without attention heads; give the model as a safetensors folder")
    head_dim = int(
        get_number_or(header, "attention.key_length", int(header.get_number("embedding_length")) // num_heads)
    )
    return num_heads, num_kv_heads, head_dim


def _get_token_id(metadata: dict[str, Any], name: str, num_tokens: int, default: int | None) -> int | None:
    """Return a special token's id; as in llama.cpp an id outside the vocabulary counts as absent."""
    token_id = metadata.get(f"{name}_token_id")
    if isinstance(token_id, int) and 0 <= token_id < num_tokens:
        return token_id
    return default if default is not None and default < num_tokens else None
