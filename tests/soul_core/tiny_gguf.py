"""Writes a tiny Llama as GGUF, the way llama.cpp's converter does: the file our reader must turn back."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_TOP["lm_head.weight"] = "output.weight"


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
    split: str = "smollm",
    tokenizer_model: str = "gpt2",
    skip: str = "no tensor",
) -> Path:
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, tokenizer, split=split, tokenizer_model=tokenizer_model)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.numpy()
        for part, count in heads.items():
            if part in name:
                weight = _permuted(weight, count)
        if skip in name:
            continue
        flat = weight.ndim == 1
        data = weight if flat or kind == GGMLQuantizationType.F32 else quants.quantize(weight, kind)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=None if data.dtype == np.float32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(
    writer: GGUFWriter,
    tokenizer: PreTrainedTokenizerFast,
    *,
    split: str,
    tokenizer_model: str,
    add_bos: bool | None = False,
) -> None:
    import json

    told = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = {added["content"] for added in told["added_tokens"]}
    writer.add_tokenizer_model(tokenizer_model)
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in told["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(tokenizer.chat_template)


def _gguf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    _, _, layer, *part, kind = name.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(part)]}.{kind}"


def _permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).copy()


#: model_type of transformers -> architecture of GGUF.
_ARCHITECTURES = {"gemma3_text": "gemma3"}


def write_any_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    split: str = "gpt-2",
    add_bos: bool | None = False,
    leave_out: tuple[str, ...] = (),
    more_keys: Mapping[str, float | str] | None = None,
    more_tensors: Mapping[str, np.ndarray] | None = None,
    add_vocabulary: Callable[[GGUFWriter], None] | None = None,
) -> Path:
    """Write a model of any architecture that is read, in float32, as llama.cpp's converter does.

    `leave_out`: endings of keys and beginnings of tensors (as GGUF names them) that are not written.
    `add_vocabulary` writes another tokenizer than the byte-level one.
    """
    config, model_type = model.config, model.config.model_type
    architecture = _ARCHITECTURES.get(model_type, model_type)
    writer = GGUFWriter(path, architecture)
    for key, value in {**_keys(model), **(more_keys or {})}.items():
        if not any(key.endswith(end) for end in leave_out):
            add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}[type(value)]
            add(f"{architecture}.{key}", value)
    if add_vocabulary is not None:
        add_vocabulary(writer)
    else:
        _add_tokenizer(writer, tokenizer, split=split, tokenizer_model="gpt2", add_bos=add_bos)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        base, _, kind = name.rpartition(".")
        written = names.get_name(base)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        assert written is not None, name
        if not written.startswith(leave_out or ("nothing",)):
            writer.add_tensor(f"{written}.{kind}", np.ascontiguousarray(_as_written(written, tensor.numpy(), config)))
    for name, values in (more_tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(model: PreTrainedModel) -> dict[str, float | int]:
    """Return the metadata, without the architecture's name in front."""
    config = model.config
    width = getattr(config, "intermediate_size", None) or getattr(config, "ffn_hidden_size", None)
    keys: dict[str, float | int] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": width or 4 * config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    num_kv_heads = getattr(config, "num_kv_heads", None) or getattr(config, "num_key_value_heads", None)
    if config.model_type == "falcon" and config.multi_query and not config.new_decoder_architecture:
        num_kv_heads = 1
    if num_kv_heads:
        keys["attention.head_count_kv"] = num_kv_heads
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if hasattr(config, name):
            kind = "layer_norm_rms_epsilon" if name == "rms_norm_eps" else "layer_norm_epsilon"
            keys[f"attention.{kind}"] = float(getattr(config, name))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if config.model_type in {"llama", "qwen3", "gemma2", "gemma3_text"}:
        keys["attention.key_length"] = keys["attention.value_length"] = head_dim
    rope = getattr(config, "rope_parameters", None)
    if rope:
        rope = rope.get("full_attention", rope)
        keys["rope.freq_base"] = float(rope["rope_theta"])
        keys["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if config.model_type in {"gemma2", "gemma3_text", "phi3"} and config.sliding_window:
        keys["attention.sliding_window"] = config.sliding_window
    if config.model_type == "gemma2":
        keys["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        keys["final_logit_softcapping"] = float(config.final_logit_softcapping)
    return keys


def _as_written(name: str, weight: np.ndarray, config: PreTrainedConfig) -> np.ndarray:
    """Return a weight as the architecture's converter changes it."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", 0)}
    if config.model_type == "llama" and name.rpartition(".")[2] in heads:
        return _permuted(weight, heads[name.rpartition(".")[2]])
    if config.model_type.startswith("gemma") and name.endswith("norm"):
        return weight + 1
    if config.model_type == "gpt2" and name.endswith(("attn_qkv", "attn_output", "ffn_up", "ffn_down")):
        return weight.T
    if config.model_type == "falcon" and name.endswith("attn_qkv") and config.new_decoder_architecture:
        groups, heads = config.num_kv_heads, config.num_attention_heads
        head_dim = config.hidden_size // heads
        grouped = weight.reshape(groups, heads // groups + 2, head_dim, -1)
        parts = [grouped[:, :-2], grouped[:, -2:-1], grouped[:, -1:]]
        return np.concatenate([part.reshape(-1, weight.shape[1]) for part in parts])
    return weight
