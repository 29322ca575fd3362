"""The known name that a misspelt one is nearest to, for error messages."""

import difflib
from collections.abc import Iterable

#: A longer text is not a misspelling, and comparing it would take long.
_MAX_LENGTH = 64


def find_nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like `name`, if one is."""
    if len(name) > _MAX_LENGTH:
        return None
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def shorten(text: str, max_length: int = 100) -> str:
    """Return a text as error messages quote it: not longer than they are."""
    return text if len(text) <= max_length else f"{text[:max_length]}…"
