"""Chat templates in the style of published families, written for SOUL, and a tokenizer with their marks."""

# ruff: noqa: E501  a template's lines are long
from transformers import PreTrainedTokenizerFast

from bench.tiny_tokenizer import make_tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: As Qwen3: an empty thinking block before each answer; in the prompt only if thinking is turned off.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% set c = m['content'] %}{% set r = '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<think>\n' + r + '\n</think>\n\n' + c }}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
#: As Llama 2: spaces around both texts, trimmed, no generation prompt, system text inside the first user turn.
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}"
)
#: As gpt-oss: a channel before each answer, and a different mark after the last.
CHANNELS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + m['content'] }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
#: As Gemma: the assistant is called model, texts are trimmed, a system turn is an error.
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
#: As DeepSeek R1: the generation prompt opens a thinking block that past answers do not have.
OPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] "
    "+ eos_token }}{% else %}{{ '<|User|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
#: As Llama 3.1: today's date in a system turn that every conversation has.
DATED = (
    "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% else %}{% set d = '26 Jul 2024' %}{% endif %}"
    "{{ '<|im_start|>system\nToday Date: ' + d + '<|im_end|>\n' }}" + CHATML
)
#: Plain words instead of marks; a name before the answer; text and then a mark after it.
NAMED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'ASSISTANT (Nova): ' + m['content'] + ' [over]' + eos_token }}"
    "{% else %}{{ m['role'] | upper + ': ' + m['content'] + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT (Nova):' }}{% endif %}"
)
#: As Phi-3: a mark after each turn and another after the conversation.
TWO_MARKS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
#: ChatML without a generation prompt: the model writes the beginning of its turn.
SILENT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
#: A template that ends a turn with white space alone.
UNMARKED = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
#: The answer appears twice; `generation` marks the one that the model writes.
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n(length ' + (m['content'] | length | string) "
    "+ ', ' + m['content'] + ')\n' }}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "thinking": THINKING,
    "inst": INST,
    "channels": CHANNELS,
    "strict": STRICT,
    "opened": OPENED,
    "dated": DATED,
    "named": NAMED,
    "two_marks": TWO_MARKS,
    "silent": SILENT,
    "unmarked": UNMARKED,
    "marked": MARKED,
}
SPECIAL_TOKENS = (
    *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|User|>", "<|Assistant|>", "<|user|>", "<|assistant|>", "<think>", "</think>"),
)


def make_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that has every mark as one token."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.all_special_tokens, *SPECIAL_TOKENS]})
    tokenizer.chat_template = template
    return tokenizer
