"""Removes what surrounds prompts and answers: white space, line ends, special tokens of models. Torch-free."""

import re
from dataclasses import replace
from typing import Any

from soul_core.data.columns import Row
from soul_core.data.messages import Message
from soul_core.data.names import KNOWN_EXTRA_COLUMNS
from soul_core.texts import normalize

LINE_ENDS, WHITE_SPACE, END_MARK = "line_ends", "white_space", "end_mark"

#: White space in the sense of Unicode, and zero-width characters.
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"
#: Special tokens that models write after an answer. `<|...|>` is never text; the others are of published tokenizers.
_END = re.compile(
    r"(?:<\|[^|<>\s]{1,40}\|>|<｜[^｜<>\s]{1,40}｜>|</s>|<end_of_turn>|<turn\|>|<eos>|<eod>|<pad>|\[EOS\]|\[PAD\]"
    r"|\[e~\[|<\|im_end\|?>?)$"
)
_BEGIN = re.compile(r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<\|endoftext\|>|<｜begin▁of▁sentence｜>)")
_LONGEST_MARK = 60
_LINE_END = re.compile("\r\n?")


def clean_row(row: Row) -> tuple[Row, frozenset[str]]:
    """Return the row without what surrounds its texts, and what was removed: LINE_ENDS, WHITE_SPACE, END_MARK.

    In plain text only line ends and an end token are removed, because a passage may begin or end with white space.
    """
    kinds: set[str] = set()
    if not row.messages:
        return replace(row, completion=_clean(row.completion, kinds, strip=False)), frozenset(kinds)
    messages = tuple(Message(message.role, _clean(message.content, kinds)) for message in row.messages)
    completion = _clean(row.completion, kinds)
    extra = {
        name: _clean_other(value, kinds) if name in KNOWN_EXTRA_COLUMNS else value for name, value in row.extra.items()
    }
    joint = row.joint or _joint(row) if WHITE_SPACE in kinds else row.joint
    return replace(row, messages=messages, completion=completion, extra=extra, joint=joint), frozenset(kinds)


def normalize_row(row: Row) -> Row:
    """Return the row with all its texts in NFC, with plain spaces and without zero-width characters."""
    messages = tuple(Message(message.role, normalize(message.content)) for message in row.messages)
    return replace(
        row, messages=messages, completion=normalize(row.completion), extra=_normalize_values(dict(row.extra))
    )


def _clean(text: str, kinds: set[str], *, strip: bool = True) -> str:
    cleaned = _LINE_END.sub("\n", text)
    if cleaned != text:
        kinds.add(LINE_ENDS)
    without = _without_special_tokens(cleaned)
    if without != cleaned:
        kinds.add(END_MARK)
        cleaned = without
    stripped = cleaned.strip(_BLANKS) if strip else cleaned
    if stripped != cleaned:
        kinds.add(WHITE_SPACE)
    return stripped


def _without_special_tokens(text: str) -> str:
    """Remove special tokens at both ends, and white space around them; a text of nothing else stays unchanged."""
    is_struck_through = "<s>" in text[1:]  # HTML, where </s> is not a special token
    end, kept_end = len(text), len(text)
    while True:
        while end and text[end - 1] in _BLANKS:
            end -= 1
        tail = text[max(0, end - _LONGEST_MARK) : end]
        mark = _END.search(tail)
        if mark is None or (is_struck_through and mark.group() == "</s>"):
            break
        end = kept_end = end - len(mark.group())
    body = text[:kept_end].lstrip(_BLANKS)
    begin = None if "</s>" in body else _BEGIN.match(body)
    cut = body[begin.end() :] if begin else text[:kept_end]
    return cut if cut.strip(_BLANKS) else text


def _clean_other(value: Any, kinds: set[str]) -> Any:
    """Clean another answer or question of the row, or a list of them, like the answer it is compared with."""
    if isinstance(value, list):
        return [_clean_other(inner, kinds) for inner in value]
    return _clean(value, kinds) if isinstance(value, str) else value


def _joint(row: Row) -> str:
    prompt, answer = _LINE_END.sub("\n", row.messages[-1].content), _LINE_END.sub("\n", row.completion)
    return prompt[len(prompt.rstrip()) :] + answer[: len(answer) - len(answer.lstrip())]


def _normalize_values(value: Any) -> Any:
    if isinstance(value, str):
        return normalize(value)
    if isinstance(value, list):
        return [_normalize_values(inner) for inner in value]
    return {name: _normalize_values(inner) for name, inner in value.items()} if isinstance(value, dict) else value
