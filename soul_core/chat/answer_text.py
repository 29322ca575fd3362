"""Splits what a model writes into a preamble (thinking block, channel, header, name) and the answer. Torch-free.

A reasoning model writes `<think>...</think>` before it answers; others open a channel first. Metrics read only the
answer.
"""

import re
from dataclasses import dataclass

#: Tokens around thinking blocks in published chat templates.
_THINKING = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
#: What precedes the answer if a model writes several channels.
_ANSWER_OPENS = ("<|channel|>final<|message|>", "<|begin_of_solution|>", "<|START_RESPONSE|>")
_CHANNEL = "<|channel|>"


@dataclass(frozen=True, slots=True)
class AnswerText:
    """The two parts of what a model wrote."""

    preamble: str
    """What precedes the answer, special tokens included; empty for most models."""
    answer: str
    """Empty if the model was stopped before it began to answer."""


def split_answer(text: str, *, prompt: str = "", answer_prefix: str = "") -> AnswerText:
    """Split what a model wrote. A thinking block that is not closed takes all of the text, so the answer is empty.

    Args:
        text: what the model wrote.
        prompt: the end of what the model was given; a template may open the thinking block there.
        answer_prefix: what the template writes between the generation prompt and an answer.
    """
    cut = _after_channel(text)
    if cut is None:
        cut = _after_thinking(text, prompt)
    if cut is None:
        cut = _after_prefix(text, answer_prefix)
    cut = len(text) - len(text[cut:].lstrip()) if cut else 0
    return AnswerText(text[:cut], text[cut:])


def _after_channel(text: str) -> int | None:
    for opening in _ANSWER_OPENS:
        if (place := text.rfind(opening)) >= 0:
            return place + len(opening)
    return len(text) if text.lstrip().startswith(_CHANNEL) else None


def _after_thinking(text: str, prompt: str) -> int | None:
    for opens, closes in _THINKING:
        if text.lstrip().startswith(opens) or prompt.rstrip().endswith(opens):
            place = text.rfind(closes)
            return len(text) if place < 0 else place + len(closes)
        if (place := text.rfind(closes)) >= 0 and opens not in text:  # the template opened the block earlier
            return place + len(closes)
    return None


def _after_prefix(text: str, answer_prefix: str) -> int | None:
    """Return the end of the template's own words if the model wrote them again."""
    words = re.split(r"\s+", answer_prefix.strip())
    pattern = r"\s*" + r"\s*".join(map(re.escape, words))
    match = re.match(pattern, text) if answer_prefix.strip() else None
    return match.end() if match else None
