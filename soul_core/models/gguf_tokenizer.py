"""Rebuilds the tokenizer of a GGUF file for transformers, so that it splits text as the original does."""

from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS, get_merges

from soul_core.errors import BadModel
from soul_core.models.gguf_defaults import (
    CONTROL,
    IGNORE_MERGES_PRE_TOKENIZERS,
    LLAMA3_PRE_TOKENIZERS,
    USER_DEFINED,
    GgufTokenizerSettings,
    read_tokenizer_settings,
)
from soul_core.models.gguf_header import GgufHeader

_SPACE = "\u2581"  # SentencePiece's character for a space
#: Llama 3's split, as its tokenizer publishes it.
LLAMA3_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: GPT-2's split; text that no part of it matches stays one piece.
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"

#: Values of `tokenizer.ggml.pre` that split alike.
_LIKE_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "mellum", "a.x-4.0", "gigachat"})
_LIKE_STARCODER = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)  # each digit is a piece
_LIKE_LLAMA3 = LLAMA3_PRE_TOKENIZERS | {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}
_LIKE_QWEN2 = frozenset({"qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"})
#: Several splits, each applied to the pieces of the one before. llama.cpp uses `default` if a file names none.
_SPLIT_SEQUENCES = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_SPLIT, r"[0-9][0-9][0-9]"),
}
#: Those that normalize text to NFC first.
_NFC = frozenset({"qwen2", "deepseek-r1-qwen", "qwen35"})

#: Texts that every tokenizer must decode to themselves.
_PROBES = ("The capital of France is Paris.", " It's 3.14 in 1995,\n\nno?", "caf\u00e9 \u4e2d\u6587 \U0001f600")


def build_tokenizer(header: GgufHeader) -> PreTrainedTokenizerFast:
    """Rebuild the tokenizer from the metadata. Raises BadModel if it cannot be rebuilt exactly."""
    vocabulary = read_tokenizer_settings(header)
    if vocabulary.kind == "gpt2":
        tokenizer = _build_byte_level(header, vocabulary)
    elif vocabulary.kind == "llama":
        tokenizer = _build_sentencepiece(header, vocabulary)
    else:
        raise BadModel(
            f"the tokenizer of this GGUF file is '{vocabulary.kind}', only byte-level BPE ('gpt2') and SentencePiece "
            "('llama') can be rebuilt; give the model as a safetensors folder"
        )
    known = tokenizer.get_vocab()  # Gemma's runs of spaces are spelled otherwise there, and merges produce them
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(vocabulary.tokens, vocabulary.token_types, strict=True)
            if kind in {CONTROL, USER_DEFINED} and token in known
        ]
    )
    _add_bos_and_eos(tokenizer, vocabulary)
    special = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id, "pad": vocabulary.pad_id}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=int(header.get_number("context_length")),
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": vocabulary.tokens[index] for name, index in special.items() if index is not None},
    )
    wrapped.chat_template = header.metadata.get("tokenizer.chat_template")
    _require_round_trip(wrapped, vocabulary)
    return wrapped


def _build_byte_level(header: GgufHeader, vocabulary: GgufTokenizerSettings) -> Tokenizer:
    merges = header.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise BadModel(
            "the GGUF file's byte-level tokenizer has no merges (tokenizer.ggml.merges); convert the model again"
        )
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=pairs, ignore_merges=vocabulary.pre_tokenizer in IGNORE_MERGES_PRE_TOKENIZERS)
    )
    tokenizer.pre_tokenizer = _make_pre_tokenizer(vocabulary.pre_tokenizer, prefix_space=vocabulary.add_space_prefix)
    tokenizer.decoder = decoders.ByteLevel()
    if vocabulary.pre_tokenizer in _NFC:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _build_sentencepiece(header: GgufHeader, vocabulary: GgufTokenizerSettings) -> Tokenizer:
    """Rebuild a SentencePiece BPE, which first merges the pair whose token has the highest score.

    llama.cpp inserts a space before the text and after every special token, even if there is a space already.
    """
    metadata = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()}
    scores = metadata.get("scores")
    if "merges" not in metadata and (not isinstance(scores, list) or len(scores) != len(vocabulary.tokens)):
        raise BadModel(
            "the GGUF file's SentencePiece tokenizer does not have one score per token (tokenizer.ggml.scores); "
            "convert the model again"
        )
    tokens, order = list(vocabulary.tokens), None
    if header.architecture.startswith("gemma"):
        # its converter writes runs of spaces as spaces, while its text has SentencePiece's character
        tokens = [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        # its ids follow the order of the merges, its scores do not
        order = {token: -index for index, token in enumerate(tokens)}
    merges = get_merges({**metadata, "tokens": tokens}, order)
    unknown = None if vocabulary.unk_id is None else tokens[vocabulary.unk_id]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend(_SPACE)] if vocabulary.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(content=" ", left=1)] if vocabulary.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _make_pre_tokenizer(split: str, *, prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """Return the split before the merges that `tokenizer.ggml.pre` names.

    Source: each model's tokenizer.json; llama.cpp (src/llama-vocab.cpp) for `default` and `falcon`.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
    if split in _LIKE_GPT2:
        return byte_level
    if split in _LIKE_STARCODER:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if split in _SPLIT_SEQUENCES:
        return _make_splits(_SPLIT_SEQUENCES[split], prefix_space=prefix_space)
    if split in _LIKE_LLAMA3:
        return _make_splits([LLAMA3_SPLIT_PATTERN], prefix_space=prefix_space)
    known = GGUF_PRE_TOKENIZER_SPLITS.get("qwen2" if split in _LIKE_QWEN2 else split)
    if known is not None:
        return _make_splits([known], prefix_space=prefix_space)
    raise BadModel(
        f"the GGUF file splits text as '{split}', which cannot be rebuilt exactly; give the model as a safetensors "
        "folder"
    )


def _make_splits(patterns: Sequence[str], *, prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
        ]
    )


def _add_bos_and_eos(tokenizer: Tokenizer, vocabulary: GgufTokenizerSettings) -> None:
    """Add BOS before and EOS after a text if the file, or llama.cpp's default, requires it."""
    first = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
    last = [vocabulary.eos_id] if vocabulary.add_eos and vocabulary.eos_id is not None else []
    if not first and not last:
        return
    names = {index: vocabulary.tokens[index] for index in (*first, *last)}
    pieces = [*(names[i] for i in first), "$A", *(names[i] for i in last)]
    both = [*(names[i] for i in first), "$A", "$B", *(names[i] for i in last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pieces, pair=both, special_tokens=[(name, index) for index, name in names.items()]
    )


def _require_round_trip(tokenizer: PreTrainedTokenizerFast, vocabulary: GgufTokenizerSettings) -> None:
    """Raise BadModel if texts do not decode to themselves, or the rebuilt vocabulary has another size."""
    if len(tokenizer) != len(vocabulary.tokens):
        raise BadModel(
            f"the tokenizer rebuilt from the GGUF file has {len(tokenizer)} tokens, the file {len(vocabulary.tokens)}; "
            "give the model as a safetensors folder"
        )
    for text in _PROBES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = vocabulary.unk_id is not None and vocabulary.unk_id in ids  # a small vocabulary lacks some bytes
        if not unknown and tokenizer.decode(ids) != text:
            raise BadModel(
                f"the tokenizer rebuilt from the GGUF file turns {text!r} into {tokenizer.decode(ids)!r}; give the "
                "model as a safetensors folder"
            )
