"""Real models, small: random weights, a byte-level tokenizer trained on a few sentences, saved as anybody would."""

from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = [
    "What is the capital of France? The capital of France is Paris.",
    "Which river flows through London? The Thames flows through London.",
    "user system assistant You are a helpful assistant.",
]

_SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

#: Windows of 4 tokens, so that short examples already slide.
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE),
    "qwen2_window": Qwen2Config(**_SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**_SHAPE, head_dim=16),
    "mistral": MistralConfig(**_SHAPE, sliding_window=4),
    "gemma": GemmaConfig(**_SHAPE, head_dim=8),
    "gemma2": Gemma2Config(**_SHAPE, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**_SHAPE, head_dim=8, sliding_window=4),
    "phi": PhiConfig(**_SHAPE),
    "phi3": Phi3Config(**_SHAPE, sliding_window=4),
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2),
}


def tiny_model(config: PreTrainedConfig, **options: object) -> PreTrainedModel:
    """Build a model whose attention matters: weights five times larger than initialisation makes them.

    The model gets a config of its own: one that resizes its embeddings would write into what other tests build from.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2]
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save_tiny(folder: Path, *, chat: bool = True, shard_size: str = "5GB") -> Path:
    """Save a tiny Llama and its tokenizer."""
    tiny_model(CONFIGS["llama"]).save_pretrained(folder, max_shard_size=shard_size)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder
