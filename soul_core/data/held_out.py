"""Splits rows off a set by the seed and their content: held out of training, or kept for a guard. Torch-free.

The order of the rows, and rows that are added elsewhere in the file, change little: each content has its own rank.
"""

import hashlib
import json
from collections.abc import Sequence

from soul_core.data.columns import Row
from soul_core.texts import fold_to_line

#: Of fewer rows none is held out: the training needs them more than a measurement of two rows is worth. Ours.
MIN_SPLIT_ROWS = 5
#: Bounds on the held-out rows. Of fewer than two nothing can be resampled; more than 100 make an interval hardly
#: narrower and cost training data and time. Ours.
MIN_HELD_OUT, MAX_HELD_OUT = 2, 100


def count_held_out(num_rows: int, fraction: float) -> int:
    """Return how many of a set's rows are held out: the fraction, rounded down, between 2 and 100; 0 of a small set."""
    if fraction <= 0 or num_rows < MIN_SPLIT_ROWS:
        return 0
    return min(MAX_HELD_OUT, max(MIN_HELD_OUT, int(fraction * num_rows)))


def split_off(rows: Sequence[Row], num_rows: int, *, seed: int, purpose: str) -> tuple[list[int], list[int]]:
    """Return the indices of the rows that stay, and of about `num_rows` rows that are split off, each in order.

    Rows are ranked by a hash of seed, purpose and content. Rows of equal content stay together, so that no copy of a
    row that is split off stays; the part is then smaller rather than larger than requested.

    Args:
        purpose: Name of the part (retain_held_out, guard): parts of different names are chosen independently.
    """
    indices_by_rank: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        indices_by_rank.setdefault(_rank(row, seed, purpose), []).append(index)
    part: set[int] = set()
    for rank in sorted(indices_by_rank):
        if len(part) + len(indices_by_rank[rank]) <= num_rows:
            part.update(indices_by_rank[rank])
    indices = range(len(rows))
    return [index for index in indices if index not in part], [index for index in indices if index in part]


def find_shared_rows(rows: Sequence[Row], others: Sequence[Row]) -> tuple[int, ...]:
    """Return the numbers of those rows whose content is also in the other set."""
    contents = {_serialize(row) for row in others}
    return tuple(row.number for row in rows if _serialize(row) in contents)


def _rank(row: Row, seed: int, purpose: str) -> str:
    return hashlib.sha256(f"{seed} {purpose} {_serialize(row)}".encode("utf-8", "surrogatepass")).hexdigest()


def _serialize(row: Row) -> str:
    """Return prompt and answer as one text; white space and Unicode form do not matter."""
    turns = [[message.role, fold_to_line(message.content)] for message in row.messages]
    return json.dumps([turns, fold_to_line(row.completion)], ensure_ascii=False)
