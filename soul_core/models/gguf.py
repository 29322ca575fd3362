"""A GGUF file turned into a plain safetensors folder that transformers loads, once, in a cache.

transformers reads GGUF too, but slowly, loses how some tokenizers split digits, and refuses to save the result.
The folder's name is the file's digest; it appears by a rename, so one that exists is whole.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import quants
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from soul_core.errors import BadModel
from soul_core.models.gguf_header import GgufHeader, TensorPlace, read_header

_LAYOUT = 1  # raise it when what is written changes: old cache folders are then left alone

_NORMAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

#: Llama 3's split, as its tokenizer publishes it.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def plain_folder(path: Path, *, digest: str, cache_dir: Path) -> Path:
    """Return a folder with the file's model as safetensors and tokenizer, written at the first call.

    Raises BadModel for another architecture than Llama or a tokenizer that cannot be rebuilt exactly.
    """
    folder = cache_dir / f"gguf-{digest[:32]}-{_LAYOUT}"
    if folder.is_dir():
        return folder
    header = read_header(path)
    _require_plain_llama(header)
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".gguf-", dir=cache_dir))
    try:
        _write(header, path, unfinished)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, and its folder is the same
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _require_plain_llama(header: GgufHeader) -> None:
    if header.architecture != "llama":
        raise BadModel(
            f"GGUF files of the architecture '{header.architecture}' are not supported, only 'llama'; "
            "give the model as a safetensors folder"
        )
    if any(place.name.startswith("rope_freqs") for place in header.tensors) or "llama.rope.scaling.type" in (
        header.metadata
    ):
        raise BadModel("this GGUF file scales its rotary embedding; give the model as a safetensors folder")
    if header.metadata.get("llama.expert_count"):
        raise BadModel("this GGUF file is a mixture of experts; give the model as a safetensors folder")


def _write(header: GgufHeader, path: Path, folder: Path) -> None:
    config = _config(header)
    with path.open("rb") as file:
        state = {_plain_name(place.name): _dequantised(place, file.fileno(), config) for place in header.tensors}
    _require_whole(state, config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)
    _tokenizer(header).save_pretrained(folder)


def _config(header: GgufHeader) -> LlamaConfig:
    num_heads = int(header.number("attention.head_count"))
    hidden = int(header.number("embedding_length"))
    grouped = "llama.attention.head_count_kv" in header.metadata
    tokens = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")}
    names = {place.name for place in header.tensors}
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=next(place.shape[0] for place in header.tensors if place.name == "token_embd.weight"),
        hidden_size=hidden,
        intermediate_size=int(header.number("feed_forward_length")),
        num_hidden_layers=int(header.number("block_count")),
        num_attention_heads=num_heads,
        num_key_value_heads=int(header.number("attention.head_count_kv")) if grouped else num_heads,
        head_dim=int(header.metadata.get("llama.attention.key_length", hidden // num_heads)),
        max_position_embeddings=int(header.number("context_length")),
        rms_norm_eps=header.number("attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(header.metadata.get("llama.rope.freq_base", 10_000.0)),  # llama.cpp's default
        },
        tie_word_embeddings="output.weight" not in names,
        attention_bias="blk.0.attn_q.bias" in names,
        bos_token_id=tokens["bos"],
        eos_token_id=tokens["eos"],
        pad_token_id=tokens["padding"],
        dtype="float32",
    )


def _plain_name(name: str) -> str:
    if name in _NORMAL_NAMES:
        return _NORMAL_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"
    raise BadModel(f"the GGUF file holds the tensor {name}, which a plain Llama does not have")


def _dequantised(place: TensorPlace, file: int, config: LlamaConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    raw = np.frombuffer(os.pread(file, place.num_bytes, place.start), dtype=np.uint8)
    rows = raw.reshape(*place.shape[:-1], -1)
    try:
        weight = quants.dequantize(rows, place.kind).astype(np.float32, copy=False).reshape(place.shape)
    except NotImplementedError as error:
        raise BadModel(f"the quantisation {place.kind.name} of tensor {place.name} is not supported") from error
    if ".attn_q." in place.name:
        return _unpermuted(weight, config.num_attention_heads)
    if ".attn_k." in place.name:
        return _unpermuted(weight, config.num_key_value_heads)
    return np.ascontiguousarray(weight)


def _unpermuted(weight: np.ndarray[Any, np.dtype[np.float32]], num_heads: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Put the rows of a query or key matrix back: llama.cpp rotates neighbours, transformers the two halves."""
    num_rows = weight.shape[0]
    pairs = weight.reshape(num_heads, num_rows // num_heads // 2, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def _require_whole(state: dict[str, Any], config: LlamaConfig) -> None:
    wanted = {"model.embed_tokens.weight", "model.norm.weight"}
    wanted |= {
        f"model.layers.{layer}.{part}.weight"
        for layer in range(config.num_hidden_layers)
        for part in _LAYER_NAMES.values()
    }
    if missing := sorted(wanted - state.keys()):
        raise BadModel("the GGUF file lacks tensors of a Llama", details=tuple(missing[:20]))


def _tokenizer(header: GgufHeader) -> PreTrainedTokenizerFast:
    """Rebuild a byte-level BPE tokenizer from the metadata, so that it splits text as the original does."""
    told = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()}
    if told.get("model") != "gpt2":
        raise BadModel(
            f"the tokenizer of this GGUF file is '{told.get('model')}', only byte-level BPE ('gpt2') can be rebuilt; "
            "give the model as a safetensors folder"
        )
    tokens, merges = told["tokens"], [tuple(merge.split(" ", 1)) for merge in told["merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    split = str(told.get("pre", "default"))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split == "llama-bpe"))
    tokenizer.pre_tokenizer = _pre_tokenizer(split, prefix_space=bool(told.get("add_space_prefix", False)))
    tokenizer.decoder = decoders.ByteLevel()
    kinds = told.get("token_type") or [1] * len(tokens)
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in {_CONTROL, _USER_DEFINED}
    ]
    tokenizer.add_tokens(added)
    bos = told.get("bos_token_id")
    if told.get("add_bos_token") and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A $B", special_tokens=[(tokens[bos], bos)]
        )
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    special = {
        ours: tokens[told[f"{theirs}_token_id"]] for theirs, ours in names.items() if f"{theirs}_token_id" in told
    }
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=int(header.number("context_length")),
        clean_up_tokenization_spaces=False,
        **special,
    )
    wrapped.chat_template = header.metadata.get("tokenizer.chat_template")
    return wrapped


def _pre_tokenizer(split: str, *, prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """Return how `tokenizer.ggml.pre` says text is split before the merges. Source: each model's tokenizer.json."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
    if split == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if split in {"gpt-2", "default"}:
        return byte_level
    if split == "llama-bpe":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
            ]
        )
    raise BadModel(
        f"the GGUF file splits text as '{split}', which cannot be rebuilt exactly; give a safetensors folder"
    )
