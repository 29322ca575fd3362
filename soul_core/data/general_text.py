"""General text: the sample that SOUL ships, and the bounds on what a base model writes itself. Torch-free.

`general_sample.txt` has short passages of plain prose on many subjects, one per paragraph, written for SOUL and
dedicated to the public domain (`general_sample_license.md`).
"""

from functools import cache
from pathlib import Path

from soul_core.data.columns import Row
from soul_core.data.held_out import split_off

#: Passages that a run measures, and the tokens of one. Ours: 6 s on a small model on one core.
NUM_MEASURED, SAMPLE_TOKENS = 16, 95
#: Texts that the base model writes itself; the largest and the smallest number of tokens of one. Ours: 6 s to write.
NUM_OWN_TEXTS, MAX_OWN_TOKENS, MIN_OWN_TOKENS = 24, 32, 4
_FILE = "general_sample.txt"


@cache
def read_sample() -> tuple[Row, ...]:
    """Return the passages as rows of plain text, numbered from 1."""
    passages = Path(__file__).with_name(_FILE).read_text(encoding="utf-8").split("\n\n")
    return tuple(Row(number, (), " ".join(passage.split())) for number, passage in enumerate(passages, start=1))


def split_sample(seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return the passages that a run does not measure, and may train on, and those that it measures."""
    rows = read_sample()
    rest, measured = split_off(rows, NUM_MEASURED, seed=seed, purpose="general")
    return tuple(rows[i] for i in rest), tuple(rows[i] for i in measured)
