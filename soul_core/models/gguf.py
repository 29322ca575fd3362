"""A GGUF file turned into a plain safetensors folder that transformers loads, once, in a cache.

Llama files are converted here; transformers' own loader, which is slower, reads the other architectures
(`gguf_transformers`). Tokenizers are rebuilt here for all of them. The folder's name is the file's digest.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import quants
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import GenerationConfig, LlamaConfig

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadModel
from soul_core.models.files import inspect_model
from soul_core.models.gguf_architectures import require_readable
from soul_core.models.gguf_defaults import get_head_counts, read_tokenizer_settings
from soul_core.models.gguf_header import GgufHeader, TensorInfo, read_gguf_header
from soul_core.models.gguf_rope import ROPE_FACTORS_TENSOR, make_rope_parameters
from soul_core.models.gguf_tokenizer import LLAMA3_SPLIT_PATTERN, build_tokenizer

_LAYOUT = 2  # raise it when what is written changes: old cache folders are then left alone
#: Bytes of a tensor that one call reads.
_MOST_AT_ONCE = 1 << 30

#: The name by which scripts that write GGUF files for us know it.
_LLAMA3_SPLIT = LLAMA3_SPLIT_PATTERN

#: File of a converted folder that says what the others hold.
_SEAL = "SHA256SUMS"

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


def convert_to_folder(path: Path, *, digest: str, cache_dir: Path) -> Path:
    """Return a folder with the file's model as safetensors and tokenizer, written at the first call.

    A folder that was damaged since is written anew. Raises BadModel for a file that cannot be rebuilt exactly, or
    changed while it was converted; `digest` is that of `inspect_model`.
    """
    folder = cache_dir / f"gguf-{digest[:32]}-{_LAYOUT}"
    if _is_intact(folder):
        return folder
    header = read_gguf_header(path)
    require_readable(header)
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".gguf-", dir=cache_dir))
    try:
        _write(header, path, unfinished)
        if inspect_model(path).digest != digest:
            raise BadModel(f"{path.name} changed while it was converted; run again when no other process writes to it")
        _seal(unfinished)
        _replace(folder, unfinished)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _replace(folder: Path, made: Path) -> None:
    """Put a new folder in place; the damaged one that may lie there goes. Another process may have been quicker."""
    damaged = made.with_name(f"{made.name}-damaged")
    try:
        if folder.exists() and not _is_intact(folder):
            folder.rename(damaged)
        made.rename(folder)
    except OSError:
        if not _is_intact(folder):  # else another process was quicker, and its folder is the same
            raise
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Write every file's sha256, in the form of sha256sum."""
    lines = [f"{compute_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / _SEAL).write_text("".join(lines))


def _is_intact(folder: Path) -> bool:
    """Say whether a converted folder is there and holds what was written."""
    try:
        lines = [line.split("  ", 1) for line in (folder / _SEAL).read_text().splitlines()]
        sealed = {name: sha256 for sha256, name in lines}
        names = {path.name for path in folder.iterdir()} - {_SEAL}
        return names == sealed.keys() and all(compute_sha256(folder / name) == sealed[name] for name in names)
    except (OSError, ValueError):
        return False


def _write(header: GgufHeader, path: Path, folder: Path) -> None:
    if header.architecture == "llama":
        _write_llama(header, path, folder)
    else:
        from soul_core.models.gguf_transformers import write_model  # transformers' loader takes a second to import

        write_model(header, path, folder)
    vocabulary = read_tokenizer_settings(header)
    GenerationConfig(
        bos_token_id=vocabulary.bos_id,
        eos_token_id=list(vocabulary.end_ids) if len(vocabulary.end_ids) > 1 else vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
    ).save_pretrained(folder)
    build_tokenizer(header).save_pretrained(folder)


def _write_llama(header: GgufHeader, path: Path, folder: Path) -> None:
    places = {place.name: place for place in header.tensors}
    with path.open("rb") as file:
        factors = dequantize(places.pop(ROPE_FACTORS_TENSOR), file.fileno()) if ROPE_FACTORS_TENSOR in places else None
        config = _config(header, factors)
        state = {_plain_name(name): _llama_tensor(place, file.fileno(), config) for name, place in places.items()}
    _require_whole(state, config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def _config(header: GgufHeader, factors: NDArray[np.float32] | None) -> LlamaConfig:
    num_heads, num_kv_heads, head_dim = get_head_counts(header)
    if header.metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise BadModel("the GGUF file rotates a part of each head only, which a Llama does not")
    vocabulary = read_tokenizer_settings(header)
    names = {place.name for place in header.tensors}
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=next(place.shape[0] for place in header.tensors if place.name == "token_embd.weight"),
        hidden_size=int(header.get_number("embedding_length")),
        intermediate_size=int(header.get_number("feed_forward_length")),
        num_hidden_layers=int(header.get_number("block_count")),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=int(header.get_number("context_length")),
        rms_norm_eps=header.get_number("attention.layer_norm_rms_epsilon"),  # llama.cpp has no default either
        rope_parameters=make_rope_parameters(header, factors, head_dim=head_dim),
        tie_word_embeddings="output.weight" not in names,
        attention_bias="blk.0.attn_q.bias" in names,
        mlp_bias="blk.0.ffn_gate.bias" in names,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        dtype="float32",
    )


def _plain_name(name: str) -> str:
    if name in _NORMAL_NAMES:
        return _NORMAL_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"
    raise BadModel(f"the GGUF file holds the tensor {name}, which a plain Llama does not have")


def _read(file: int, num_bytes: int, start: int) -> bytearray:
    """Read a tensor's bytes. One call to the kernel stops at 2 GiB, and an embedding may be larger."""
    content = bytearray(num_bytes)
    done = 0
    while done < num_bytes:
        part = os.preadv(file, [memoryview(content)[done : done + _MOST_AT_ONCE]], start + done)
        if part == 0:
            raise BadModel("the GGUF file ends before its tensors do; is it whole?")
        done += part
    return content


def dequantize(tensor_info: TensorInfo, file: int) -> NDArray[np.float32]:
    """Read one tensor as float32. Raises BadModel for a quantization that gguf does not know."""
    raw = np.frombuffer(_read(file, tensor_info.size_bytes, tensor_info.file_offset), dtype=np.uint8)
    rows = raw.reshape(*tensor_info.shape[:-1], -1)
    try:
        weight = (
            quants.dequantize(rows, tensor_info.ggml_type).astype(np.float32, copy=False).reshape(tensor_info.shape)
        )
    except NotImplementedError as error:
        raise BadModel(
            f"the quantization {tensor_info.ggml_type.name} of tensor {tensor_info.name} is not supported"
        ) from error
    return np.ascontiguousarray(weight)


def _llama_tensor(place: TensorInfo, file: int, config: LlamaConfig) -> NDArray[np.float32]:
    weight = dequantize(place, file)
    if ".attn_q." in place.name:
        return _unpermuted(weight, config.num_attention_heads)
    if ".attn_k." in place.name:
        return _unpermuted(weight, config.num_key_value_heads)
    return weight


def _unpermuted(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Put the rows of a query or key matrix back: llama.cpp rotates neighbors, transformers the two halves."""
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
