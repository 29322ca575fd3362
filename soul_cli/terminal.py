"""Texts of others as a terminal may show them: names, rows and messages cannot move the cursor or change colors."""

import re

from rich.markup import escape as escape_markup

#: Control characters except tab and line feed, and what turns the direction of writing around.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """Return a text without markup, with its control characters written out."""
    return escape_markup(make_visible(text))


def make_visible(text: str) -> str:
    """Return a text with its control characters written out."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
