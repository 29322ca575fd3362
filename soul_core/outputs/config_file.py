"""config.json for transformers 5, transformers 4.57 and the servers and converters that are built on either.

It starts from the base model's own file. Values that the run changed (tied heads, dtype) are replaced, values that
transformers 5 implies are written out, and rotary embeddings are written in both forms: `rope_parameters` (5.x), and
`rope_theta` with `rope_scaling` (4.x).
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

#: Not part of a model: paths of machines, and facts about the library that wrote the file.
_IGNORED = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"})
#: Keys of 4.x for the global and local base of rotary embeddings that differ by layer.
_LAYERED_ROPE_KEYS = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", None),
}
#: Keys of 4.x for base and rotated fraction, of architectures with other names for them.
_ROPE_KEYS = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
#: The only keys of a long rope that Phi-3 in 4.57 accepts; its original context length is in the config itself.
_PHI3_KEYS = frozenset({"type", "short_factor", "long_factor"})


def make_portable_config(model: PreTrainedModel, base: Path | None, *, dtype: str) -> dict[str, Any]:
    """Return config.json's content.

    Args:
        model: The exported model; its config is the measured one.
        base: Folder with the base model's config.json, or None.
        dtype: Type of the exported weights.

    The installed transformers reads it back as the model's own config; keys of 4.x that would change it are left out.
    """
    config = model.config
    own = json.loads(config.to_json_string())
    own["architectures"] = [type(model).__name__]
    own["tie_word_embeddings"] = bool(config.tie_word_embeddings)
    base_content = _read_base_config(config, base)
    content = _with_dtype({**own, **base_content, **_find_changes(config, base_content, base)}, dtype)
    for rope_4x in (_make_rope_4x(config), {}):
        if _reads_back({**rope_4x, **content}, config, ignoring=frozenset(rope_4x)):
            return {**rope_4x, **content}
    return _with_dtype(own, dtype)


def write_config(content: dict[str, Any], folder: Path) -> None:
    """Write config.json, and replace an existing one."""
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _with_dtype(content: dict[str, Any], dtype: str) -> dict[str, Any]:
    # transformers before 4.56 reads only torch_dtype
    portable = {key: value for key, value in content.items() if key != "_name_or_path"}
    return {**portable, "dtype": dtype, "torch_dtype": dtype}


def _read_base_config(config: PreTrainedConfig, base: Path | None) -> dict[str, Any]:
    if base is None:
        return {}
    content: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return content if content.get("model_type") == config.model_type else {}


def _find_changes(config: PreTrainedConfig, base_content: dict[str, Any], base: Path | None) -> dict[str, Any]:
    """Return the new values of those keys of the base that loading or the run changed."""
    if not base_content or base is None:
        return {}
    before, now = type(config).from_dict(base_content).to_dict(), config.to_dict()
    changed = {
        key: now[key] for key in base_content if key in now and key not in _IGNORED and before.get(key) != now.get(key)
    }
    return {**changed, "tie_word_embeddings": bool(config.tie_word_embeddings)}


def _make_rope_4x(config: PreTrainedConfig) -> dict[str, Any]:
    """Return rotary embeddings in the form of 4.x; empty if 4.x has none for them."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not rope:
        return {}
    if "full_attention" in rope or "sliding_attention" in rope:
        return _make_layered_rope_4x(config, rope)
    if "rope_theta" not in rope:
        return {}
    theta_key, fraction_key = _ROPE_KEYS.get(config.model_type, ("rope_theta", "partial_rotary_factor"))
    content = {theta_key: rope["rope_theta"], "rope_scaling": _make_scaling(rope, config.model_type)}
    if "partial_rotary_factor" in rope:
        content[fraction_key] = rope["partial_rotary_factor"]
    return content


def _make_layered_rope_4x(config: PreTrainedConfig, rope: dict[str, Any]) -> dict[str, Any]:
    full, local = rope.get("full_attention"), rope.get("sliding_attention")
    if config.model_type not in _LAYERED_ROPE_KEYS or not full or not local:
        return {}
    full_key, local_key = _LAYERED_ROPE_KEYS[config.model_type]
    content = {full_key: full["rope_theta"], "rope_scaling": _make_scaling(full, config.model_type)}
    if local_key is not None:
        content[local_key] = local["rope_theta"]
    elif local["rope_theta"] != full["rope_theta"]:
        return {}
    return content


def _make_scaling(rope: dict[str, Any], model_type: str) -> dict[str, Any] | None:
    """Return `rope_scaling`; None for plain rotary embeddings."""
    if rope.get("rope_type", "default") == "default":
        return None
    scaling = {key: value for key, value in rope.items() if key not in {"rope_theta", "partial_rotary_factor"}}
    if model_type == "phi3":
        scaling["type"] = scaling.pop("rope_type")
        return {key: value for key, value in scaling.items() if key in _PHI3_KEYS}
    return scaling


def _reads_back(content: dict[str, Any], config: PreTrainedConfig, *, ignoring: frozenset[str]) -> bool:
    """Return whether the installed transformers reads it as the model's config. Some configs keep unknown keys."""
    try:
        again = type(config).from_dict(json.loads(json.dumps(content)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return _normalize(again, ignoring) == _normalize(config, ignoring)


def _normalize(config: PreTrainedConfig, ignoring: frozenset[str]) -> dict[str, Any]:
    content = json.loads(config.to_json_string(use_diff=False))
    rope = content.get("rope_parameters")
    if isinstance(rope, dict) and rope.get("type") == rope.get("rope_type"):
        rope.pop("type", None)  # the key of 4.x, which 5.x keeps
    return {key: value for key, value in content.items() if key not in _IGNORED | ignoring}
