"""What config.json says of the architecture: whether it can be trained here, and how long its texts may be. Torch-free.

The engine has the last word: it runs the model. Here is what can be said, in words a user can act on, without it.
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
#: Architectures without a longest text (ALiBi, recurrent states): the length that published models were trained at.
_UNBOUNDED = frozenset({"bloom", "falcon", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm"})
_UNBOUNDED_TOKENS = 2048
#: Encoders whose causal form exists only where config.json says is_decoder.
_ENCODERS = re.compile(
    r"(Bert|Roberta|RobertaPreLayerNorm|RoCBert|Camembert|Data2VecText|Electra|Ernie|BigBird|XLMRoberta|XLMRobertaXL|"
    r"MegatronBert|RemBert|RoFormer|Xmod)(ForCausalLM|LMHeadModel)"
)
_OTHER_KINDS = (
    (r"ForConditionalGeneration$", "an encoder-decoder or a model of several media"),
    (r"(Sequence|Token|Multiple|Question|Image|Audio).*(Classification|Choice|Answering)$", "a classifier"),
    (r"(ForRewardModel|RewardModel|DoubleHeadsModel)", "a reward model or has a second head"),
    (r"(ForMaskedLM|ForPreTraining)$", "a masked language model, which reads its text in both directions"),
    (r"Model$", "a model without its language-model head"),
)


def check_architecture(config: dict[str, Any]) -> str:
    """Return the architecture's name. Raises BadModel, saying why and what to do, for what is no causal LM."""
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise BadModel("config.json names no architecture (architectures)")
    if not _CAUSAL.search(name):
        kind = next((f": it is {text}" for pattern, text in _OTHER_KINDS if re.search(pattern, name)), "")
        raise BadModel(
            f"{name} is no causal language model{kind}; give a decoder that writes text from left to right, saved as "
            "AutoModelForCausalLM saves it (its architecture ends in ForCausalLM or LMHeadModel)"
        )
    if name.startswith("XLNet"):
        raise BadModel(f"{name} predicts its tokens in any order, not from left to right; give a causal language model")
    if _ENCODERS.fullmatch(name) and not config.get("is_decoder"):
        raise BadModel(
            f"{name} reads its text in both directions as config.json has it; if it was trained from left to right, "
            "set is_decoder to true there"
        )
    return name


def read_context_tokens(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int:
    """Return how many tokens a text may have. Raises BadModel when nothing says it."""
    for source in (config, get_text_config(config), {"model_max_length": tokenizer_config.get("model_max_length")}):
        for key in _CONTEXT_KEYS:
            value = source.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9:
                return value
    if config.get("model_type") in _UNBOUNDED:
        return _UNBOUNDED_TOKENS
    raise BadModel("config.json does not say the context length (max_position_embeddings)")


def get_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the language model's part of a config that has several, else nothing."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}
