"""Plain text for tasks: passages of books and web documents, drawn by a seed. Torch-free."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from soul_core.errors import BadData
from soul_core.tasks.task import JsonObject, read_text

T = TypeVar("T")

#: Words of a passage, and at most of a web document: about 465 tokens, enough for a prefix of 300 and 128 to generate.
PASSAGE_WORDS = 360
_PARAGRAPH = re.compile(r"\n\s*\n")


def cut_passages(text: str, *, words_per_passage: int = PASSAGE_WORDS) -> list[str]:
    """Cut a text into passages of exactly `words_per_passage` words; line breaks inside paragraphs become spaces."""
    passages: list[str] = []
    passage: list[str] = []
    num_words = 0
    for paragraph in _PARAGRAPH.split(text.strip()):
        remaining = paragraph.split()
        while remaining:
            room = words_per_passage - num_words
            taken, remaining = remaining[:room], remaining[room:]
            passage.append(" ".join(taken))
            num_words += len(taken)
            if num_words == words_per_passage:
                passages.append("\n\n".join(passage))
                passage, num_words = [], 0
    return passages


def draw_items(items: Sequence[T], num_items: int, *, seed: int, item_name: str) -> tuple[list[T], list[T]]:
    """Return `num_items` items drawn by the seed and all others, both in their order.

    Raises:
        BadData: there are fewer items.
    """
    if num_items > len(items):
        raise BadData(f"the data has {len(items)} {item_name}, {num_items} are needed; use the complete data set")
    chosen = set(random.Random(f"{seed} {item_name}").sample(range(len(items)), num_items))  # noqa: S311  not for secrets
    return [item for i, item in enumerate(items) if i in chosen], [
        item for i, item in enumerate(items) if i not in chosen
    ]


def read_web_documents(data: Path, *, max_words: int = PASSAGE_WORDS) -> list[JsonObject]:
    """Return the C4 sample, each document cut to its first `max_words` words."""
    lines = read_text(data / "c4_sample" / "c4_demo.jsonl").splitlines()
    texts = [json.loads(line)["text"] for line in lines if line.strip()]
    return [{"text": _first_words(text, max_words)} for text in texts if text.strip()]


def _first_words(text: str, max_words: int) -> str:
    end = 0
    for number, match in enumerate(re.finditer(r"\S+", text)):
        if number == max_words:
            break
        end = match.end()
    return text[:end].strip()
