"""Write a Llama-like model as a GGUF file for llama.cpp. Source: llama.cpp's converter and its documented keys.

`check_gguf` runs before training, `write_gguf` after it; `soul_core.outputs.gguf_check` reads the file back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from soul_core.atomic_io import translate_disk_errors
from soul_core.errors import BadSpec
from soul_core.outputs.gguf_tokenizer import GgufTokenizer, make_gguf_tokenizer
from soul_core.spec.export import GGUF_ARCHITECTURES

_TOP_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_KINDS = {"f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
_FILE_TYPES = {"f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}
#: Settings of YaRN with the same meaning in llama.cpp and transformers; the others differ.
_YARN_KEYS = frozenset({"rope_type", "rope_theta", "factor", "original_max_position_embeddings"})
#: Numbers in a block of q8_0. Rows whose length is not a multiple of it stay 16-bit.
BLOCK_SIZE = 32


@dataclass(frozen=True)
class GgufTensor:
    """One tensor in GGUF's order of rows, as float32, with the type in which it is stored."""

    name: str
    values: NDArray[np.float32]
    tensor_type: GGMLQuantizationType


def check_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise BadSpec or BadModel before the training if the model cannot be written as GGUF."""
    name = type(model).__name__
    if name not in GGUF_ARCHITECTURES:
        known = ", ".join(GGUF_ARCHITECTURES)
        raise BadSpec(f"export.gguf: {name} cannot be written as GGUF, only {known}; set it to 'none'")
    config = model.config
    if getattr(config, "mlp_bias", False):
        raise BadSpec("export.gguf: a Llama with biases in its MLP cannot be written as GGUF; set it to 'none'")
    window = getattr(config, "sliding_window", None)
    slides = getattr(config, "use_sliding_window", True) and window is not None
    if slides and window < config.max_position_embeddings:
        raise BadSpec(
            f"export.gguf: the model attends to a window of {window} tokens, which llama.cpp's architecture "
            f"'{GGUF_ARCHITECTURES[name]}' does not have; set it to 'none'"
        )
    _make_rope_keys(config)
    make_gguf_tokenizer(tokenizer, vocab_size=model.get_input_embeddings().num_embeddings)


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, kind: str, name: str
) -> GgufTokenizer:
    """Write the model's weights, already rounded for export, as `f16` or `q8_0`. Returns the tokenizer.

    `name` is the model's name in programs. Raises BadSpec if a weight exceeds the range of 16 bits.
    """
    gguf_tokenizer = make_gguf_tokenizer(tokenizer, vocab_size=model.get_input_embeddings().num_embeddings)
    with translate_disk_errors("the GGUF file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(path, GGUF_ARCHITECTURES[type(model).__name__])
        try:
            writer.add_name(name)
            writer.add_file_type(_FILE_TYPES[kind])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            _add_shape(writer, model.config)
            gguf_tokenizer.write_metadata(writer)
            for tensor in iter_gguf_tensors(model, kind):
                _add_tensor_info(writer, tensor)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in iter_gguf_tensors(
                model, kind
            ):  # again, because all at once would be a second model in memory
                writer.write_tensor_data(_encode(tensor))
        finally:
            writer.close()
    return gguf_tokenizer


def iter_gguf_tensors(model: PreTrainedModel, kind: str) -> Iterator[GgufTensor]:
    """Yield every tensor of the file: matrices in the given kind, vectors in float32, as llama.cpp expects."""
    config = model.config
    is_permuted = GGUF_ARCHITECTURES[type(model).__name__] == "llama"
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.detach().float().cpu().numpy()
        part = next((part for part in heads if is_permuted and part in name), None)
        if part is not None:
            values = _permute(values, heads[part])
        yield GgufTensor(_make_gguf_name(name), values, _choose_type(values, kind))
    if (factors := _compute_rope_factors(config)) is not None:
        yield GgufTensor("rope_freqs.weight", factors, GGMLQuantizationType.F32)


def _choose_type(values: NDArray[np.float32], kind: str) -> GGMLQuantizationType:
    if values.ndim < 2:
        return GGMLQuantizationType.F32
    if kind == "q8_0" and values.shape[-1] % BLOCK_SIZE:
        return GGMLQuantizationType.F16
    return _KINDS[kind]


def _add_tensor_info(writer: GGUFWriter, tensor: GgufTensor) -> None:
    """Announce a tensor. Its bytes are written later, one tensor at a time."""
    if tensor.tensor_type == GGMLQuantizationType.Q8_0:
        shape = quants.quant_shape_to_byte_shape(tensor.values.shape, tensor.tensor_type)
        writer.add_tensor_info(
            tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=tensor.tensor_type
        )
        return
    dtype = np.dtype(np.float32 if tensor.tensor_type == GGMLQuantizationType.F32 else np.float16)
    writer.add_tensor_info(tensor.name, tensor.values.shape, dtype, tensor.values.size * dtype.itemsize)


def _encode(tensor: GgufTensor) -> NDArray[Any]:
    """Return a tensor in its stored form."""
    if tensor.tensor_type == GGMLQuantizationType.F32:
        return tensor.values
    if tensor.tensor_type == GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            halves = tensor.values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise BadSpec(
                f"export.gguf: {tensor.name} exceeds the range of float16 (65504); set it to 'q8_0', or to 'none'"
            )
        return halves
    return quants.quantize(tensor.values, tensor.tensor_type)


def _make_gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[part]}.{kind}"


def _permute(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Order the rows of a query or key projection by pairs: llama.cpp rotates neighbors, transformers halves."""
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    for method, value in _make_rope_keys(config).items():
        getattr(writer, method)(value)


def _make_rope_keys(config: Any) -> dict[str, Any]:
    """Return the writer's methods with their arguments. Raises BadSpec for a scaling without keys in GGUF."""
    rope = config.rope_parameters
    keys: dict[str, Any] = {"add_rope_freq_base": float(rope["rope_theta"])}
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise BadSpec(
            "export.gguf: the model rotates only a part of each head, which cannot be written; set it to 'none'"
        )
    if kind == "linear":
        keys |= {"add_rope_scaling_type": gguf.RopeScalingType.LINEAR, "add_rope_scaling_factor": rope["factor"]}
    elif kind == "yarn" and rope.keys() <= _YARN_KEYS:
        keys |= {"add_rope_scaling_type": gguf.RopeScalingType.YARN, "add_rope_scaling_factor": rope["factor"]}
        keys["add_rope_scaling_orig_ctx_len"] = rope["original_max_position_embeddings"]
    elif kind not in {"default", "llama3"}:
        raise BadSpec(f"export.gguf: rotary embeddings scaled as '{kind}' cannot be written; set it to 'none'")
    return keys


def _compute_rope_factors(config: Any) -> NDArray[np.float32] | None:
    """Return the factor by which Llama 3's scaling divides each frequency; GGUF stores it as a tensor."""
    rope = config.rope_parameters
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    dim = 2 * len(scaled)
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return (plain / scaled).numpy()
