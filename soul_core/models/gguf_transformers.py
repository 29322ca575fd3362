"""Converts GGUF files of architectures other than Llama: the config by a table here, the weights by transformers.

transformers' loader ignores what its tables do not name: a rope scaling, a sliding window, complete tensors. So the
config is made here from every key that `gguf_architectures` accepts, and every tensor of the file must be read.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from soul_core.errors import BadModel
from soul_core.models.gguf_defaults import get_head_counts, get_number_or, read_tokenizer_settings
from soul_core.models.gguf_header import GgufHeader
from soul_core.models.gguf_rope import make_rope_parameters

Settings = dict[str, Any]


def write_model(header: GgufHeader, path: Path, folder: Path) -> None:
    """Write config.json and model.safetensors of a GGUF file into `folder`.

    Raises BadModel if the loader cannot read it, leaves a weight out, or ignores a tensor of the file.
    """
    config = _make_config(header, path)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        link = Path(temporary) / "model.gguf"  # the loader requires this suffix
        link.symlink_to(path.resolve())
        model = _load(link, config)
    _require_all_read(header, model)
    if header.architecture == "falcon":
        _regroup_falcon(model)
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    state = {name: weight.contiguous().clone() for name, weight in model.state_dict().items() if name not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


def _load(path: Path, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # its tables and readers raise exceptions of any class
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadModel(
            f"transformers cannot read this GGUF file: {error}; give the model as a folder with safetensors"
        ) from error
    keys = ("missing_keys", "mismatched_keys", "unexpected_keys")
    if wrong := sorted(str(name) for key in keys for name in loading_info[key]):
        raise BadModel(
            "the GGUF file lacks weights of its model, or has others; give the model as a folder with safetensors",
            details=tuple(wrong[:20]),
        )
    return model


def _require_all_read(header: GgufHeader, model: PreTrainedModel) -> None:
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config={})
    read = set(get_gguf_hf_weights_map(model, processor)) | {"output.weight"}
    if unread := sorted(tensor.name for tensor in header.tensors if tensor.name not in read):
        raise BadModel(
            f"the GGUF file holds tensors that a {header.architecture} does not have; give the model as a folder "
            "with safetensors",
            details=tuple(unread[:20]),
        )


def _make_config(header: GgufHeader, path: Path) -> PreTrainedConfig:
    num_heads, num_kv_heads, head_dim = get_head_counts(header)
    vocabulary = read_tokenizer_settings(header)
    settings = {
        "vocab_size": next(tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight"),
        "hidden_size": int(header.get_number("embedding_length")),
        "num_hidden_layers": int(header.get_number("block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": int(header.get_number("context_length")),
        "tie_word_embeddings": _is_tied(header, path),
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
        "dtype": "float32",
    }
    model_type, make_settings = _SETTINGS[header.architecture]
    return CONFIG_MAPPING[model_type](**{**settings, **make_settings(header, head_dim)})


def _is_tied(header: GgufHeader, path: Path) -> bool:
    """Return whether the output head is the embedding: the file has no head, or an equal copy."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    head, embedding = tensors.get("output.weight"), tensors["token_embd.weight"]
    if head is None:
        return True
    if (head.ggml_type, head.size_bytes) != (embedding.ggml_type, embedding.size_bytes):
        return False
    if header.architecture != "gpt2":  # only its converter writes a tied head as a copy
        return False
    with path.open("rb") as file:
        copies = []
        for tensor in (head, embedding):
            file.seek(tensor.file_offset)
            copies.append(file.read(tensor.size_bytes))
    return copies[0] == copies[1]


def _qwen2(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    return _rms(header) | _gated(header) | _rope(header, head_dim)


def _qwen3(header: GgufHeader, head_dim: int) -> Settings:
    bias = {"attention_bias": _has(header, "attn_q.bias"), "head_dim": head_dim}
    return _rms(header) | _gated(header) | _rope(header, head_dim) | bias


def _gemma2(header: GgufHeader, head_dim: int) -> Settings:
    return (
        _rms(header)
        | _gated(header)
        | _rope(header, head_dim)
        | {
            "head_dim": head_dim,
            "query_pre_attn_scalar": _query_scale(header, head_dim, largest_layers=46),
            "sliding_window": int(get_number_or(header, "attention.sliding_window", 4096)),
            "attn_logit_softcapping": get_number_or(header, "attn_logit_softcapping", 50.0),
            "final_logit_softcapping": get_number_or(header, "final_logit_softcapping", 30.0),
        }
    )


def _gemma3(header: GgufHeader, head_dim: int) -> Settings:
    full = _rope(header, head_dim)["rope_parameters"]
    window = {"rope_type": "default", "rope_theta": get_number_or(header, "rope.freq_base_swa", 10_000.0)}
    return (
        _rms(header)
        | _gated(header)
        | {
            "head_dim": head_dim,
            "query_pre_attn_scalar": _query_scale(header, head_dim, largest_layers=62),
            "sliding_window": int(header.get_number("attention.sliding_window")),
            "final_logit_softcapping": get_number_or(header, "final_logit_softcapping", 0.0) or None,
            "rope_parameters": {"full_attention": full, "sliding_attention": window},
        }
    )


def _phi3(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    window = int(get_number_or(header, "attention.sliding_window", 0)) or None
    return _rms(header) | _gated(header) | _rope(header, head_dim, partial=True) | {"sliding_window": window}


def _stablelm(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    rope = _rope(header, head_dim, partial=True)
    return (
        _gated(header)
        | rope
        | {
            "layer_norm_eps": header.get_number("attention.layer_norm_epsilon"),
            "use_qkv_bias": _has(header, "attn_q.bias"),
            "use_parallel_residual": not _has(header, "ffn_norm.weight"),
        }
    )


def _starcoder2(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    return (
        _gated(header)
        | _rope(header, head_dim)
        | {
            "norm_epsilon": header.get_number("attention.layer_norm_epsilon"),
            "use_bias": _has(header, "attn_q.bias"),
            "sliding_window": None,  # llama.cpp uses no window
        }
    )


def _falcon(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    num_kv_heads = get_head_counts(header)[1]
    return _rope(header, head_dim) | {
        "layer_norm_epsilon": header.get_number("attention.layer_norm_epsilon"),
        "num_kv_heads": num_kv_heads,
        "multi_query": num_kv_heads == 1,
        "new_decoder_architecture": num_kv_heads > 1,
        "num_ln_in_parallel_attn": 2 if _has(header, "attn_norm_2.weight") else 1,
        "ffn_hidden_size": int(header.get_number("feed_forward_length")),
        "parallel_attn": True,
        "alibi": False,
        "bias": False,
    }


def _gpt2(header: GgufHeader, head_dim: int) -> Settings:
    _require_even_heads(header, head_dim)
    epsilon = header.get_number("attention.layer_norm_epsilon")
    return {"n_inner": int(header.get_number("feed_forward_length")), "layer_norm_epsilon": epsilon}


#: Architecture -> model_type of transformers, and the settings of its config in addition to the common ones.
_SETTINGS: dict[str, tuple[str, Callable[[GgufHeader, int], Settings]]] = {
    "qwen2": ("qwen2", _qwen2),
    "qwen3": ("qwen3", _qwen3),
    "gemma2": ("gemma2", _gemma2),
    "gemma3": ("gemma3_text", _gemma3),
    "phi3": ("phi3", _phi3),
    "stablelm": ("stablelm", _stablelm),
    "starcoder2": ("starcoder2", _starcoder2),
    "falcon": ("falcon", _falcon),
    "gpt2": ("gpt2", _gpt2),
}


def _rms(header: GgufHeader) -> Settings:
    return {"rms_norm_eps": header.get_number("attention.layer_norm_rms_epsilon")}


def _gated(header: GgufHeader) -> Settings:
    return {"intermediate_size": int(header.get_number("feed_forward_length"))}


def _rope(header: GgufHeader, head_dim: int, *, partial: bool = False) -> Settings:
    """Return the rotary embedding; `partial`: the architecture may rotate only a part of each head."""
    num_rotated = int(get_number_or(header, "rope.dimension_count", head_dim))
    if num_rotated > head_dim or (num_rotated != head_dim and not partial):
        raise BadModel(
            f"the GGUF file rotates {num_rotated} of each head's {head_dim} dimensions, which cannot be "
            "converted; give the model as a folder with safetensors"
        )
    parameters = make_rope_parameters(header, None, head_dim=head_dim)
    return {"rope_parameters": parameters | ({"partial_rotary_factor": num_rotated / head_dim} if partial else {})}


def _query_scale(header: GgufHeader, head_dim: int, *, largest_layers: int) -> int:
    """Return the number whose root divides Gemma's queries. Source: llama.cpp, which identifies 27B by its layers."""
    if int(header.get_number("block_count")) != largest_layers:
        return head_dim
    return int(header.get_number("embedding_length")) // int(header.get_number("attention.head_count"))


def _has(header: GgufHeader, part: str) -> bool:
    return any(tensor.name == f"blk.0.{part}" for tensor in header.tensors)


def _require_even_heads(header: GgufHeader, head_dim: int) -> None:
    """Raise BadModel unless a head's size is hidden size / heads: these configs cannot express another."""
    if head_dim * get_head_counts(header)[0] != int(header.get_number("embedding_length")):
        raise BadModel(
            f"the GGUF file has heads of {head_dim} dimensions, which a {header.architecture} cannot have; give the "
            "model as a folder with safetensors"
        )


def _regroup_falcon(model: PreTrainedModel) -> None:
    """Restore the groups of fused queries, keys and values: llama.cpp stores all queries, then keys, then values."""
    config = model.config
    num_groups, head_dim = config.num_kv_heads, config.hidden_size // config.num_attention_heads
    if not config.new_decoder_architecture:
        return
    for layer in model.transformer.h:
        weight = layer.self_attention.query_key_value.weight
        sizes = [config.num_attention_heads * head_dim, num_groups * head_dim, num_groups * head_dim]
        parts = [part.reshape(num_groups, -1, head_dim, weight.shape[1]) for part in weight.data.split(sizes)]
        weight.data = torch.cat(parts, dim=1).reshape(weight.shape)
