"""config.json as transformers 5, transformers 4.57 and the servers and converters built on either read it.

It begins with the base's own file, as it was. What the run changed (tied heads, dtype) replaces its values, what
transformers 5 takes for granted is written out, and rotary embeddings stand in both spellings: `rope_parameters`
(5.x) beside `rope_theta` and `rope_scaling` (4.x).
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

#: Not part of a model: paths of machines, and what the writing library says of itself.
_IGNORED = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"})
#: Local and global base of rotary embeddings that differ by layer, as 4.x spells them.
_NESTED_SPELLINGS = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", None),
}
#: Where 4.x calls the flat base and the rotated share otherwise.
_FLAT_SPELLINGS = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
#: The only keys of a long rope that 4.57's Phi-3 accepts; its original context stands in the config itself.
_PHI3_KEYS = frozenset({"type", "short_factor", "long_factor"})


def make_portable_config(model: PreTrainedModel, base: Path | None, *, dtype: str) -> dict[str, Any]:
    """Return config.json's content.

    Args:
        model: The model that is exported; its config says what was measured.
        base: Folder with the base's config.json, or None where there is none.
        dtype: Type of the exported weights.

    Read back by the installed transformers it gives the model's own config: spellings that would not are left out.
    """
    config = model.config
    own = json.loads(config.to_json_string())
    own["architectures"] = [type(model).__name__]
    own["tie_word_embeddings"] = bool(config.tie_word_embeddings)
    as_it_was = _base_config(config, base)
    content = _with_dtype({**own, **as_it_was, **_changed(config, as_it_was, base)}, dtype)
    for spelled in (_rope_of_4x(config), {}):
        if _reads_back({**spelled, **content}, config, ignoring=frozenset(spelled)):
            return {**spelled, **content}
    return _with_dtype(own, dtype)


def write_config(content: dict[str, Any], folder: Path) -> None:
    """Write config.json over the one that is there."""
    (folder / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _with_dtype(content: dict[str, Any], dtype: str) -> dict[str, Any]:
    # transformers before 4.56 reads torch_dtype alone
    kept = {key: value for key, value in content.items() if key != "_name_or_path"}
    return {**kept, "dtype": dtype, "torch_dtype": dtype}


def _base_config(config: PreTrainedConfig, base: Path | None) -> dict[str, Any]:
    if base is None:
        return {}
    content: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return content if content.get("model_type") == config.model_type else {}


def _changed(config: PreTrainedConfig, as_it_was: dict[str, Any], base: Path | None) -> dict[str, Any]:
    """Return the values of the base's keys that loading or the run changed since."""
    if not as_it_was or base is None:
        return {}
    before, now = type(config).from_dict(as_it_was).to_dict(), config.to_dict()
    changed = {
        key: now[key] for key in as_it_was if key in now and key not in _IGNORED and before.get(key) != now.get(key)
    }
    return {**changed, "tie_word_embeddings": bool(config.tie_word_embeddings)}


def _rope_of_4x(config: PreTrainedConfig) -> dict[str, Any]:
    """Return rotary embeddings in the spelling of 4.x, or nothing where it has none for them."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not rope:
        return {}
    if "full_attention" in rope or "sliding_attention" in rope:
        return _nested(config, rope)
    if "rope_theta" not in rope:
        return {}
    theta, share = _FLAT_SPELLINGS.get(config.model_type, ("rope_theta", "partial_rotary_factor"))
    spelled = {theta: rope["rope_theta"], "rope_scaling": _scaling(rope, config.model_type)}
    if "partial_rotary_factor" in rope:
        spelled[share] = rope["partial_rotary_factor"]
    return spelled


def _nested(config: PreTrainedConfig, rope: dict[str, Any]) -> dict[str, Any]:
    whole, local = rope.get("full_attention"), rope.get("sliding_attention")
    if config.model_type not in _NESTED_SPELLINGS or not whole or not local:
        return {}
    of_whole, of_local = _NESTED_SPELLINGS[config.model_type]
    spelled = {of_whole: whole["rope_theta"], "rope_scaling": _scaling(whole, config.model_type)}
    if of_local is not None:
        spelled[of_local] = local["rope_theta"]
    elif local["rope_theta"] != whole["rope_theta"]:
        return {}
    return spelled


def _scaling(rope: dict[str, Any], model_type: str) -> dict[str, Any] | None:
    """Return `rope_scaling`: absent for plain rotary embeddings."""
    if rope.get("rope_type", "default") == "default":
        return None
    scaling = {key: value for key, value in rope.items() if key not in {"rope_theta", "partial_rotary_factor"}}
    if model_type == "phi3":
        scaling["type"] = scaling.pop("rope_type")
        return {key: value for key, value in scaling.items() if key in _PHI3_KEYS}
    return scaling


def _reads_back(content: dict[str, Any], config: PreTrainedConfig, *, ignoring: frozenset[str]) -> bool:
    """Say whether the installed transformers makes the model's config of it. Some keep other spellings as they are."""
    try:
        again = type(config).from_dict(json.loads(json.dumps(content)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return _essence(again, ignoring) == _essence(config, ignoring)


def _essence(config: PreTrainedConfig, ignoring: frozenset[str]) -> dict[str, Any]:
    content = json.loads(config.to_json_string(use_diff=False))
    rope = content.get("rope_parameters")
    if isinstance(rope, dict) and rope.get("type") == rope.get("rope_type"):
        rope.pop("type", None)  # 4.x's word for it, which 5.x keeps
    return {key: value for key, value in content.items() if key not in _IGNORED | ignoring}
