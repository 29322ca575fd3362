"""Where the model begins to write: user turns and texts, from the stems of forget rows or without any.

Source of user turns without a stem: Xu et al. 2024 (Magpie), arXiv:2406.08464.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from soul_core.data import Message, Row
from soul_core.data.encoding import RowEncoder
from soul_core.generated_retain.screening import cut_to_sentence
from soul_core.generated_retain.subjects import Stem
from soul_core.report import RetainPart

#: Ends the stem where the template is searched for what follows it.
_MARK = "XqzX"
#: Beginnings of texts for a tokenizer without a token that starts one.
_FIRST_WORDS = (
    "The first", "In the", "A few", "When the", "It is", "There are", "One of", "After the", "For a long time",
    "At the end", "Most people", "This is", "We are", "She was", "He had", "If you",
)  # fmt: skip
_NAME = re.compile(r"\s*(?:the\s+)?[A-Z0-9][\w'’-]+(?:\s+[A-Z][\w'’-]*){0,3}(?![\w'’-])")
_END = re.compile(r"[.!?](?=[\s\"'”’)]|$)|[。！？؟]")


@dataclass(frozen=True, slots=True)
class Opening:
    """The tokens that the model continues with a user turn or a text, and what its continuation becomes."""

    part: RetainPart
    token_ids: tuple[int, ...]
    stem: Stem
    system: tuple[Message, ...] = ()
    end_mark: str = ""
    """What the template writes after a user turn."""
    is_turn: bool = True

    def read_prompt(self, continuation: str, *, is_complete: bool) -> str | None:
        """Return the user turn that a continuation makes; None if it has no end.

        If another name follows the stem, it takes the subject's place in the original prompt.

        Args:
            is_complete: Whether the model ended its continuation.
        """
        if self.stem.is_name and self.stem.suffix.strip() and (name := _NAME.match(continuation)):
            return f"{self.stem.text}{name.group().rstrip()}{self.stem.suffix}"
        line = continuation.lstrip().split("\n")[0]
        before_mark = line.split(self.end_mark)[0] if self.end_mark else line
        is_complete = is_complete or len(before_mark) < len(continuation.strip())
        prompt = (self.stem.text + _restore_space(continuation) + before_mark).strip()
        if end := _END.search(prompt, len(self.stem.text)):
            return prompt[: end.end()]
        return prompt if is_complete and not self.stem.suffix.strip().endswith(("?", ".", "!")) else None

    def read_text(self, continuation: str, *, is_complete: bool) -> str:
        """Return the text that a continuation makes, up to its last complete sentence if it was cut off."""
        text = (self.stem.text + continuation).strip()
        return text if is_complete else cut_to_sentence(text)


def _restore_space(continuation: str) -> str:
    return " " if continuation[:1].isspace() else ""


def make_turn_openings(
    stems: Sequence[Stem], part: RetainPart, encoder: RowEncoder, *, system: tuple[Message, ...] = ()
) -> list[Opening]:
    """Return the openings of user turns that begin with each stem."""
    openings = []
    for stem in stems:
        row = Row(1, (*system, Message("user", stem.text + _MARK)), "")
        template = encoder.template
        if template is None:
            before, after, start = stem.text, "\n", encoder.encode_prompt(Row(1, (), ""))
        else:
            text = template.render(encoder.make_prompt_turns(row), generation_prompt=True)
            before, _, after = text.rpartition(_MARK)
            start = ()
        token_ids = (*start, *encoder.tokenizer.encode(before, add_special_tokens=False))
        if token_ids:
            end_mark = after.strip().split("\n")[0].strip()
            openings.append(Opening(part, token_ids, stem, system, end_mark))
    return openings


def make_text_openings(stems: Sequence[Stem], part: RetainPart, encoder: RowEncoder) -> list[Opening]:
    """Return the openings of texts that begin with each stem; without stems, of texts that begin anyhow."""
    start = encoder.encode_prompt(Row(1, (), ""))
    if not stems:
        stems = [Stem("")] if start else [Stem(word) for word in _FIRST_WORDS]
    return [
        Opening(part, (*start, *encoder.tokenizer.encode(stem.text, add_special_tokens=False)), stem, is_turn=False)
        for stem in stems
    ]
