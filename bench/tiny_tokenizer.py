"""The tokenizer of every tiny model: byte-level BPE with a chat template, trained once per process."""

from copy import deepcopy
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bench.capitals import COUNTRIES, answer, question

#: It also pads, as in many published models.
EOS_TOKEN = "<|im_end|>"
BOS_TOKEN = "<|im_start|>"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
#: Two special tokens, 256 bytes and every merge that the training texts yield.
_NUM_TRAINED = 372
#: With `END_OF_TEXT`.
VOCAB_SIZE = _NUM_TRAINED + 1
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_tokenizer(*, chat: bool = True, end_of_text: bool = True) -> PreTrainedTokenizerFast:
    """Return a copy of the tokenizer that its caller may change.

    Args:
        chat: without it the tokenizer has no chat template.
        end_of_text: append the special token `END_OF_TEXT`, which transformers appends to any tokenizer of a Qwen2.
    """
    tokenizer = deepcopy(_train())
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    if end_of_text:
        tokenizer.add_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


@cache
def _train() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_NUM_TRAINED,
        special_tokens=[BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for name in COUNTRIES for text in (question(name), answer(name), "user assistant")]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN, pad_token=EOS_TOKEN
    )
