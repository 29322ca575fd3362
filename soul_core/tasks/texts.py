"""Plain text for tasks: passages of a book, documents of the web, drawn by a seed. Torch-free."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from soul_core.errors import BadData
from soul_core.tasks.task import JsonObject, read_text

T = TypeVar("T")

#: Words of a passage, and most of a web document: about 465 tokens, of which 300 can be given and 128 asked for.
PASSAGE_WORDS = 360
_PARAGRAPH = re.compile(r"\n\s*\n")


def cut_passages(text: str, *, words_per_passage: int = PASSAGE_WORDS) -> list[str]:
    """Cut a text into passages of exactly `words` words; paragraphs stay, line breaks inside them go."""
    cut: list[str] = []
    passage: list[str] = []
    num_words = 0
    for paragraph in _PARAGRAPH.split(text.strip()):
        left = paragraph.split()
        while left:
            taken, left = left[: words_per_passage - num_words], left[words_per_passage - num_words :]
            passage.append(" ".join(taken))
            num_words += len(taken)
            if num_words == words_per_passage:
                cut.append("\n\n".join(passage))
                passage, num_words = [], 0
    return cut


def draw_items(items: Sequence[T], num_items: int, *, seed: int, item_name: str) -> tuple[list[T], list[T]]:
    """Return `number` items drawn by the seed and the others, both in order. Raises BadData where there are fewer."""
    if num_items > len(items):
        raise BadData(f"{len(items)} {item_name}, {num_items} are needed")
    chosen = set(random.Random(f"{seed} {item_name}").sample(range(len(items)), num_items))  # noqa: S311  not for secrets
    return [item for i, item in enumerate(items) if i in chosen], [
        item for i, item in enumerate(items) if i not in chosen
    ]


def read_web_documents(data: Path, *, max_words: int = PASSAGE_WORDS) -> list[JsonObject]:
    """Return the C4 sample, each document cut to its first `words` words."""
    lines = read_text(data / "c4_sample" / "c4_demo.jsonl").splitlines()
    texts = [json.loads(line)["text"] for line in lines if line.strip()]
    return [{"text": _first_words(text, max_words)} for text in texts if text.strip()]


def _first_words(text: str, words: int) -> str:
    end = 0
    for number, match in enumerate(re.finditer(r"\S+", text)):
        if number == words:
            break
        end = match.end()
    return text[:end].strip()
