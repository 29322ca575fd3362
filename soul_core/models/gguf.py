"""Converts a GGUF file to a safetensors folder that transformers loads, once, in a cache.

Llama files are converted here; transformers' own loader, which is slower, reads the other architectures
(`gguf_transformers`). Tokenizers of all architectures are rebuilt here. The folder's name contains the file's digest.
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

_LAYOUT = 2  # raise it when the written files change: old cache folders are not used then
#: Maximum number of bytes that one system call reads.
_MAX_READ_BYTES = 1 << 30

#: The name under which scripts that write GGUF files import it.
_LLAMA3_SPLIT = LLAMA3_SPLIT_PATTERN

#: File of a converted folder with the sha256 of the others.
_CHECKSUMS = "SHA256SUMS"

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
    """Return a folder with the file's model as safetensors and its tokenizer, written at the first call.

    A damaged folder is written again.

    Args:
        digest: The file's digest by `inspect_model`.

    Raises:
        BadModel: The file cannot be converted exactly, or changed meanwhile.
    """
    folder = cache_dir / f"gguf-{digest[:32]}-{_LAYOUT}"
    if _is_intact(folder):
        return folder
    header = read_gguf_header(path)
    require_readable(header)
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".gguf-", dir=cache_dir))
    try:
        _write(header, path, partial)
        if inspect_model(path).digest != digest:
            raise BadModel(f"{path.name} changed while it was converted; run again when no other process writes to it")
        _write_checksums(partial)
        _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _replace(folder: Path, partial: Path) -> None:
    """Rename a new folder to its place, instead of a damaged one. Another process may have done so already."""
    damaged = partial.with_name(f"{partial.name}-damaged")
    try:
        if folder.exists() and not _is_intact(folder):
            folder.rename(damaged)
        partial.rename(folder)
    except OSError:
        if not _is_intact(folder):  # else another process wrote the same folder
            raise
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _write_checksums(folder: Path) -> None:
    """Write the sha256 of every file, in the format of sha256sum."""
    lines = [f"{compute_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / _CHECKSUMS).write_text("".join(lines))


def _is_intact(folder: Path) -> bool:
    """Return whether a converted folder exists and holds what was written."""
    try:
        lines = [line.split("  ", 1) for line in (folder / _CHECKSUMS).read_text().splitlines()]
        checksums = {name: sha256 for sha256, name in lines}
        names = {path.name for path in folder.iterdir()} - {_CHECKSUMS}
        return names == checksums.keys() and all(compute_sha256(folder / name) == checksums[name] for name in names)
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
    tensors = {tensor.name: tensor for tensor in header.tensors}
    with path.open("rb") as file:
        rope_tensor = tensors.pop(ROPE_FACTORS_TENSOR, None)
        factors = dequantize(rope_tensor, file.fileno()) if rope_tensor else None
        config = _make_llama_config(header, factors)
        state = {
            _translate_name(name): _read_llama_tensor(info, file.fileno(), config) for name, info in tensors.items()
        }
    _require_complete(state, config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def _make_llama_config(header: GgufHeader, factors: NDArray[np.float32] | None) -> LlamaConfig:
    num_heads, num_kv_heads, head_dim = get_head_counts(header)
    if header.metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise BadModel(
            "the GGUF file rotates a part of each head only, which a Llama does not; give the model as a "
            "safetensors folder"
        )
    vocabulary = read_tokenizer_settings(header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shapes["token_embd.weight"][0],
        hidden_size=int(header.get_number("embedding_length")),
        intermediate_size=int(header.get_number("feed_forward_length")),
        num_hidden_layers=int(header.get_number("block_count")),
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=int(header.get_number("context_length")),
        rms_norm_eps=header.get_number("attention.layer_norm_rms_epsilon"),  # llama.cpp has no default either
        rope_parameters=make_rope_parameters(header, factors, head_dim=head_dim),
        tie_word_embeddings="output.weight" not in shapes,
        attention_bias="blk.0.attn_q.bias" in shapes,
        mlp_bias="blk.0.ffn_gate.bias" in shapes,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        dtype="float32",
    )


def _translate_name(name: str) -> str:
    if name in _NORMAL_NAMES:
        return _NORMAL_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}"
    raise BadModel(
        f"the GGUF file holds the tensor {name}, which a Llama does not have; give the model as a safetensors folder"
    )


def _read(file: int, num_bytes: int, start: int) -> bytearray:
    """Read a tensor's bytes. A system call stops at 2 GiB, and an embedding may be larger."""
    content = bytearray(num_bytes)
    done = 0
    while done < num_bytes:
        part = os.preadv(file, [memoryview(content)[done : done + _MAX_READ_BYTES]], start + done)
        if part == 0:
            raise BadModel("the GGUF file ends before its tensors do; download it again")
        done += part
    return content


def dequantize(tensor_info: TensorInfo, file: int) -> NDArray[np.float32]:
    """Read one tensor as float32. Raises BadModel for a quantization that gguf does not support."""
    raw = np.frombuffer(_read(file, tensor_info.size_bytes, tensor_info.file_offset), dtype=np.uint8)
    rows = raw.reshape(*tensor_info.shape[:-1], -1)
    try:
        weight = (
            quants.dequantize(rows, tensor_info.ggml_type).astype(np.float32, copy=False).reshape(tensor_info.shape)
        )
    except NotImplementedError as error:
        raise BadModel(
            f"the quantization {tensor_info.ggml_type.name} of tensor {tensor_info.name} is not supported; give the "
            "model as a safetensors folder"
        ) from error
    return np.ascontiguousarray(weight)


def _read_llama_tensor(tensor_info: TensorInfo, file: int, config: LlamaConfig) -> NDArray[np.float32]:
    weight = dequantize(tensor_info, file)
    if ".attn_q." in tensor_info.name:
        return _undo_permutation(weight, config.num_attention_heads)
    if ".attn_k." in tensor_info.name:
        return _undo_permutation(weight, config.num_key_value_heads)
    return weight


def _undo_permutation(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Reorder the rows of a query or key matrix: llama.cpp rotates neighbors, transformers the two halves."""
    num_rows = weight.shape[0]
    pairs = weight.reshape(num_heads, num_rows // num_heads // 2, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def _require_complete(state: dict[str, Any], config: LlamaConfig) -> None:
    expected = {"model.embed_tokens.weight", "model.norm.weight"}
    expected |= {
        f"model.layers.{layer}.{part}.weight"
        for layer in range(config.num_hidden_layers)
        for part in _LAYER_NAMES.values()
    }
    if missing := sorted(expected - state.keys()):
        raise BadModel(
            "the GGUF file lacks tensors of a Llama; download or convert it again", details=tuple(missing[:20])
        )
