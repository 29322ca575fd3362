"""Turns as a template accepts them, and the separator of prompt and answer without a template. Torch-free."""

import unicodedata
from collections.abc import Sequence

from soul_core.chat.template import Turn

SYSTEM_ROLES = frozenset({"system", "developer"})
#: East Asian scripts write no spaces between words; for other such scripts both characters are letters.
_WIDE = frozenset("WF")


def merge_system_turns(turns: Sequence[Turn]) -> list[Turn] | None:
    """Move the text of system turns to the head of the first user turn; return None if nothing changes."""
    system = [turn["content"] for turn in turns if turn["role"] in SYSTEM_ROLES]
    rest = [dict(turn) for turn in turns if turn["role"] not in SYSTEM_ROLES]
    first = next((turn for turn in rest if turn["role"] == "user"), None)
    if not system or first is None:
        return None
    first["content"] = "\n\n".join([*system, first["content"]])
    return list(rest)


def choose_separator(prompt: str, answer: str) -> str:
    """Return the separator of a prompt and an answer: a space, or nothing if one of them brings white space.

    No space is added where it might split a word (a letter or digit on both sides) or where the script has no spaces.
    """
    before, after = prompt[-1:], answer[:1]
    if not before or not after or before.isspace() or after.isspace():
        return ""
    in_word = all(unicodedata.category(char)[0] in "LMN" for char in (before, after))
    wide = any(unicodedata.east_asian_width(char) in _WIDE for char in (before, after))
    return "" if in_word or wide else " "
