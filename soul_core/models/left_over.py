"""Finds and explains tensors of a file that the model does not read, as far as their names show them. Torch-free.

A model without a part of its weights is another model, and loading libraries ignore parts without an error.
`check_tensor_names` compares names with config.json at registration; `weight_accounts` compares values after loading.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from soul_core.errors import BadModel
from soul_core.models.architectures import get_text_config
from soul_core.models.weight_files import truncate_names

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_ADAPTER = re.compile(  # peft's names: no architecture has such parts
    r"(^|\.)(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save|ia3_l|hada_w\w+|lokr_w\w+|"
    r"oft_[rR]|vera_lambda_\w+|prompt_encoder|prompt_embeddings|trainable_tokens_\w+)(\.|$)"
)
_PREDICTION_HEAD = re.compile(r"(^|\.)mtp(_\w+)?(\.|$)|(^|\.)(shared_head|eh_proj|enorm|hnorm)\.")
_HEAD = re.compile(r"(^|\.)(v_head|value_head|reward_head|score|classifier|summary)(\.|$)")
_QUANTIZED = re.compile(r"(^|[._])(qweight|qzeros|g_idx|absmax|quant_map|quant_state\b.*|SCB|weight_scale(_inv)?)$")
_OTHER_MEDIUM = re.compile(r"(^|[._])(visual|vision\w*|image\w*|audio\w*|multi_modal\w*|mm_projector)(\.|_|$)")
_FREQUENCIES = re.compile(r"inv_freq$|(cos|sin)_cached$")
_OUTPUT_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output|output_projection|generator_lm_head|lm_loss|head)(\.|$)")

_NUM_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_PREDICTED = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
#: Architectures whose config.json counts layers and experts as the file numbers them, and whose head has these names.
_COUNTED_TYPES = (
    "apertus arcee bloom cohere cohere2 deepseek_v2 deepseek_v3 exaone4 falcon gemma gemma2 gemma3_text glm glm4 "
    "gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium llama mistral mixtral mpt nemotron "
    "olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm "
    "starcoder2"
)
_COUNTED = frozenset(_COUNTED_TYPES.split())
#: Architectures whose projections have a bias if and only if this flag is set.
_BIASED_TYPES = (
    "apertus arcee cohere cohere2 deepseek_v2 deepseek_v3 gemma gemma2 gemma3_text gpt_neox granite granitemoe "
    "helium llama nemotron olmo olmo2 olmo3 olmoe qwen3 qwen3_moe seed_oss smollm3"
)
_ATTENTION_BIAS = frozenset(_BIASED_TYPES.split())
_MLP_BIAS = frozenset({"llama", "arcee", "granite", "smollm3", "nemotron", "seed_oss"})


def check_tensor_names(config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise BadModel if config.json and the tensors' names contradict each other.

    Only loading shows everything that an architecture does not read.
    """
    surplus = {name for name in names if _ADAPTER.search(name) or _QUANTIZED.search(name)}
    counted = config.get("model_type") in _COUNTED
    if counted:
        surplus |= _find_beyond(names, _LAYER, _get_count(config, _NUM_LAYERS))
        surplus |= _find_beyond(names, _EXPERT, _get_count(config, _NUM_EXPERTS))
        surplus |= _find_biases(config, names)
    if surplus:
        raise make_unread_tensors_error(sorted(surplus), config)
    if counted:
        _require_complete(config, names)


def _require_complete(config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise BadModel for fewer layers than config.json counts, or for a missing output head."""
    num_layers = _get_count(config, _NUM_LAYERS)
    layers = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    if num_layers is not None and layers and (missing := sorted(set(range(num_layers)) - layers)):
        raise BadModel(
            f"weights are missing: config.json says {num_layers} layers (num_hidden_layers), the file holds "
            f"{len(layers)}; download or save the model again",
            details=truncate_names(f"layer {number}" for number in missing),
        )
    if config.get("tie_word_embeddings") is False and not any(map(_OUTPUT_HEADS.search, names)):
        raise BadModel(
            "config.json says tie_word_embeddings: false, but the file has no output head (lm_head.weight); set it to "
            "true if the model's head is its embedding, otherwise save the model again with its head"
        )


def make_unread_tensors_error(names: Collection[str], config: Mapping[str, Any]) -> BadModel:
    """Return the error for tensors that the model does not read: their number, kinds, remedies and names."""
    values = {**config, **get_text_config(dict(config))}
    architecture = (config.get("architectures") or ["the architecture"])[0]
    remedies = dict.fromkeys(_find_remedy(name, values) for name in names)  # without duplicates
    count = f"{len(names)} tensors" if len(names) > 1 else "a tensor"
    return BadModel(
        f"the file holds {count} that {architecture} does not read as config.json describes it, and without them it "
        f"would be another model: {'; '.join(remedies)}",
        details=truncate_names(names),
    )


def _find_remedy(name: str, values: Mapping[str, Any]) -> str:
    """Return what to do about a tensor."""
    num_layers, layer = _get_count(values, _NUM_LAYERS), _LAYER.search(name)
    is_beyond = bool(layer and num_layers is not None and int(layer[1]) >= num_layers)
    for applies, remedy in (
        (_ADAPTER.search(name), "merge the adapter into its base model (peft: merge_and_unload) and save the result"),
        (_QUANTIZED.search(name), "the weights are quantized, give the unquantized ones"),
        (
            _PREDICTION_HEAD.search(name) or (is_beyond and _get_count(values, _PREDICTED)),
            "heads that predict further tokens are neither trained nor exported, save the model without them",
        ),
        (is_beyond, f"config.json says {num_layers} layers (num_hidden_layers) and the file holds more, correct it"),
        (_EXPERT.search(name), "config.json counts fewer experts than the file holds, correct it"),
        (
            _HEAD.search(name),
            "a value or classification head is not part of a language model, save the model without it",
        ),
        (_OTHER_MEDIUM.search(name), "save the language model without its parts for images or audio"),
        (
            _FREQUENCIES.search(name),
            "the rotary frequencies in the file are not those of config.json, correct rope_theta (rope_parameters)",
        ),
        (
            name.endswith("bias"),
            "the model was trained with biases, set the flags for them in config.json (attention_bias, mlp_bias, ...)",
        ),
    ):
        if applies:
            return remedy
    return "correct config.json, or save the model again with the library that trained it"


def _find_beyond(names: Iterable[str], pattern: re.Pattern[str], count: int | None) -> set[str]:
    if count is None:
        return set()
    return {name for name in names if (match := pattern.search(name)) and int(match[1]) >= count}


def _find_biases(values: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    model_type = values.get("model_type")
    biases: set[str] = set()
    for flag, model_types, parts in (
        ("attention_bias", _ATTENTION_BIAS, r"(self_attn|attention)\.\w*(q|k|v|o|qkv|query_key_value|dense)(_proj)?"),
        ("mlp_bias", _MLP_BIAS, r"mlp\.(gate|up|down)_proj"),
    ):
        is_off = values.get(flag) is False or (model_type == "llama" and not values.get(flag))
        if model_type in model_types and is_off:
            biases |= {name for name in names if re.search(rf"(^|\.){parts}\.bias$", name)}
    return biases


def _get_count(values: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    return next((values[key] for key in keys if isinstance(values.get(key), int)), None)
