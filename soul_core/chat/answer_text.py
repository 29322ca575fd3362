"""What a model writes before its answer: thinking blocks, channels, headers, names. Torch-free.

A thinking model writes `<think>...</think>` and then answers; others open a channel first. Metrics read the answer
alone.
"""

import re
from dataclasses import dataclass

#: Marks between which models think aloud: those of published chat templates.
_THINKING = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
#: What opens the answer itself where a model writes several channels.
_ANSWER_OPENS = ("<|channel|>final<|message|>", "<|begin_of_solution|>", "<|START_RESPONSE|>")
_CHANNEL = "<|channel|>"


@dataclass(frozen=True, slots=True)
class AnswerText:
    """What a model wrote, in two parts."""

    preamble: str
    """Before the answer, its marks included; empty for most models."""
    answer: str

    @property
    def is_unfinished(self) -> bool:
        """Say whether the model was cut off before it began to answer."""
        return bool(self.preamble) and not self.answer


def split_answer(text: str, *, prompt: str = "", answer_prefix: str = "") -> AnswerText:
    """Cut the answer out of what a model wrote.

    `prompt` is the end of what it was given (a template may open the thinking block there), `lead` what the template
    writes between there and an answer. A block that is opened and not closed holds all of the text: there is no answer.
    """
    cut = _after_answer_mark(text)
    if cut is None:
        cut = _after_thinking(text, prompt)
    if cut is None:
        cut = _after_lead(text, answer_prefix)
    cut = len(text) - len(text[cut:].lstrip()) if cut else 0
    return AnswerText(text[:cut], text[cut:])


def _after_answer_mark(text: str) -> int | None:
    for mark in _ANSWER_OPENS:
        if (place := text.rfind(mark)) >= 0:
            return place + len(mark)
    return len(text) if text.lstrip().startswith(_CHANNEL) else None


def _after_thinking(text: str, prompt: str) -> int | None:
    for opens, closes in _THINKING:
        if text.lstrip().startswith(opens) or prompt.rstrip().endswith(opens):
            place = text.rfind(closes)
            return len(text) if place < 0 else place + len(closes)
        if (place := text.rfind(closes)) >= 0 and opens not in text:  # the template opened it somewhere before
            return place + len(closes)
    return None


def _after_lead(text: str, lead: str) -> int | None:
    """Return the end of the template's own words, where the model wrote them again."""
    words = re.split(r"\s+", lead.strip())
    pattern = r"\s*" + r"\s*".join(map(re.escape, words))
    found = re.match(pattern, text) if lead.strip() else None
    return found.end() if found else None
