"""Rows of a data set: the vocabulary, and the canonical JSON lines the engine reads. Torch-free.

`row_formats` turns files into records; this module turns records into rows and says what is wrong with which.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt (no messages: plain text) and the completion that is learned or forgotten."""

    number: int  # 1-based line or record in the file the user sent
    messages: tuple[Message, ...]
    completion: str
    extra: dict[str, Any] = field(default_factory=dict)
