"""The architectures of GGUF files that can be converted, and the metadata that each of them may have. Torch-free.

The API checks at registration, the engine before it converts. A hyperparameter that the conversion ignores could change
what the model computes, so a key that is not listed is refused by name.
"""

from soul_core.errors import BadModel
from soul_core.models.gguf_header import GgufHeader

_REMEDY = "give the model as a folder with safetensors"

_SHAPE = frozenset(
    {
        "vocab_size",
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.causal",
        "tensor_data_layout",
        "expert_count",
        "expert_used_count",
    }
)
_ROPE = frozenset(
    {
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
_RMS, _LAYER_NORM = frozenset({"attention.layer_norm_rms_epsilon"}), frozenset({"attention.layer_norm_epsilon"})

#: Architecture (general.architecture) -> its keys that are read. transformers' loader reads all of them but `llama`.
METADATA_KEYS: dict[str, frozenset[str]] = {
    "llama": _SHAPE | _ROPE | _RMS,
    "qwen2": _SHAPE | _ROPE | _RMS,
    "qwen3": _SHAPE | _ROPE | _RMS,
    "gemma2": _SHAPE | _ROPE | _RMS | {"attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"},
    "gemma3": _SHAPE | _ROPE | _RMS | {"attention.sliding_window", "rope.freq_base_swa", "final_logit_softcapping"},
    "phi3": _SHAPE | _ROPE | _RMS | {"attention.sliding_window"},
    "stablelm": _SHAPE | _ROPE | _LAYER_NORM | {"use_parallel_residual"},
    "starcoder2": _SHAPE | _ROPE | _LAYER_NORM,
    "falcon": _SHAPE | _ROPE | _LAYER_NORM,
    "gpt2": _SHAPE | _LAYER_NORM,
}


def require_readable(header: GgufHeader) -> None:
    """Raise BadModel unless the architecture and all its metadata can be read."""
    architecture = header.architecture
    if architecture not in METADATA_KEYS:
        raise BadModel(
            f"GGUF files of the architecture '{architecture}' cannot be read, only those of "
            f"{', '.join(sorted(METADATA_KEYS))}; {_REMEDY}"
        )
    if header.metadata.get(f"{architecture}.expert_count"):
        raise BadModel(f"this GGUF file is a mixture of experts, which is not read from GGUF; {_REMEDY}")
    if "split.count" in header.metadata and int(header.metadata["split.count"]) > 1:
        raise BadModel("this GGUF file is one of several parts; join them (llama-gguf-split --merge), or " + _REMEDY)
    if header.metadata.get(f"{architecture}.attention.causal") is False:
        raise BadModel(
            f"this GGUF file holds a model that reads text in both directions, not a language model; {_REMEDY}"
        )
    prefix = f"{architecture}."
    unread = sorted(
        key
        for key in header.metadata
        if key.startswith(prefix) and key.removeprefix(prefix) not in METADATA_KEYS[architecture]
    )
    if unread:
        raise BadModel(
            f"this GGUF file sets hyperparameters of '{architecture}' that are not read, and may change what it "
            f"computes; {_REMEDY}",
            details=tuple(unread[:20]),
        )
