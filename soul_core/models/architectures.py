"""What config.json states about the architecture: whether it can be trained, and its context length. Torch-free.

These checks need no model in memory. The engine decides when it runs the model.
"""

import re
from typing import Any

from soul_core.errors import BadModel

_CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")
_CONTEXT_KEYS: tuple[str, ...] = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "seq_length",
)
_CONTEXT_KEYS += ("max_seq_len", "max_seq_length", "context_length", "model_max_length")
#: Architectures without a context limit (ALiBi, recurrent states): published models were trained at this length.
_UNBOUNDED = frozenset({"bloom", "falcon", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm"})
_UNBOUNDED_TOKENS = 2048
#: Encoders that are causal only if config.json sets is_decoder.
_ENCODERS = re.compile(
    r"(Bert|Roberta|RobertaPreLayerNorm|RoCBert|Camembert|Data2VecText|Electra|Ernie|BigBird|XLMRoberta|XLMRobertaXL|"
    r"MegatronBert|RemBert|RoFormer|Xmod)(ForCausalLM|LMHeadModel)"
)
_OTHER_KINDS = (
    (r"ForConditionalGeneration$", "an encoder-decoder or a multimodal model"),
    (r"(Sequence|Token|Multiple|Question|Image|Audio).*(Classification|Choice|Answering)$", "a classifier"),
    (r"(ForRewardModel|RewardModel|DoubleHeadsModel)", "a reward model or has a second head"),
    (r"(ForMaskedLM|ForPreTraining)$", "a masked language model, which reads its text in both directions"),
    (r"Model$", "a model without its language-model head"),
)


def check_architecture(config: dict[str, Any]) -> str:
    """Return the architecture's name. Raises BadModel for anything but a causal language model."""
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise BadModel("config.json names no architecture (architectures); save the model again with transformers")
    if not _CAUSAL.search(name):
        kind = next((f": it is {text}" for pattern, text in _OTHER_KINDS if re.search(pattern, name)), "")
        raise BadModel(
            f"{name} is not a causal language model{kind}; give a decoder that writes text from left to right, saved "
            "as AutoModelForCausalLM saves it (its architecture ends in ForCausalLM or LMHeadModel)"
        )
    if name.startswith("XLNet"):
        raise BadModel(f"{name} predicts its tokens in any order, not from left to right; give a causal language model")
    if _ENCODERS.fullmatch(name) and not config.get("is_decoder"):
        raise BadModel(
            f"{name} reads its text in both directions by its config.json; if it was trained from left to right, set "
            "is_decoder to true there"
        )
    return name


def read_context_tokens(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int:
    """Return the maximum number of tokens of a text. Raises BadModel if no file states it."""
    for source in (config, get_text_config(config), {"model_max_length": tokenizer_config.get("model_max_length")}):
        for key in _CONTEXT_KEYS:
            value = source.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
                return value
    if config.get("model_type") in _UNBOUNDED:
        return _UNBOUNDED_TOKENS
    raise BadModel("config.json does not state the context length; set max_position_embeddings there")


def get_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the language model's part of a multimodal config, else an empty dict."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}
