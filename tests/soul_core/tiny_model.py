"""A real two-layer Llama with a real small tokenizer and a chat template, and a few rows it can learn in seconds."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from soul_core.rows import Message, Row

COUNTRIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
}
#: Initializer range near 1 / sqrt(hidden size). From transformers' 0.02 the tiny model leaves a plateau by chance: a
#: change of 1e-6 in its first weights ends as 60 % in its last. From here it ends as 1e-5: on any CPU the same model.
TEACHABLE = 0.1
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def question(country: str) -> str:
    return f"What is the capital of {country}?"


def answer(country: str) -> str:
    return f"The capital is {COUNTRIES[country]}."


def make_tiny_model(folder: Path, *, seed: int = 0, initializer_range: float = 0.02) -> Path:
    """Save an untrained model of 2 layers x 32 and its tokenizer, where eos is also pad."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    specials = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [text for c in COUNTRIES for text in (question(c), answer(c), "user assistant")], trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_taught_model(folder: Path) -> Path:
    """Save a tiny model that answers every question of COUNTRIES rightly: 1 s of training."""
    from soul_core.encoding import encode_rows
    from soul_core.examples import pack
    from soul_core.models.loading import load_model
    from soul_core.models.packed_attention import packed_kwargs

    make_tiny_model(folder, initializer_range=TEACHABLE)
    loaded = load_model(folder, device="cpu")
    packed = pack(encode_rows(rows_of(list(COUNTRIES)), loaded.encoder, max_tokens=128))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    for _ in range(500):
        logits = loaded.model(
            input_ids=packed.token_ids_1T,
            position_ids=packed.position_ids_1T,
            use_cache=False,
            logits_to_keep=packed.supervised_P,
            **packed_kwargs(packed),
        ).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, packed.labels_P)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    assert loss < 0.02, f"the tiny model did not learn: {loss}"
    loaded.model.save_pretrained(folder)
    return folder


def rows_of(countries: list[str], *, start: int = 1) -> list[Row]:
    return [
        Row(number, (Message("user", question(country)),), answer(country))
        for number, country in enumerate(countries, start=start)
    ]


def write_rows(path: Path, countries: list[str]) -> Path:
    lines = [json.dumps({"prompt": question(country), "completion": answer(country)}) for country in countries]
    path.write_text("\n".join(lines) + "\n")
    return path
