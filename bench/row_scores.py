"""Rows of a benchmark, encoded and scored in this process."""

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.pretrained_data import Row
from bench.pretrained_model import write_rows
from soul_core.data import Row as EncodableRow
from soul_core.data import read_rows
from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import pack, split_micro_batches
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score

_MAX_TOKENS = 512


def encode_content(
    loaded: LoadedModel, path: Path, content: Sequence[Row]
) -> tuple[tuple[EncodableRow, ...], list[Example]]:
    """Write rows to a file, as a user's data set is read; return them as the engine reads and encodes them."""
    rows = read_rows(write_rows(path, content)).require_valid_rows()
    return rows, encode_rows(rows, loaded.encoder, max_tokens=_MAX_TOKENS)


@torch.no_grad()
def score_rows(loaded: LoadedModel, examples: Sequence[Example], *, max_tokens: int) -> list[float]:
    """Return exp(mean log-probability per token) of each example's answer, at most `max_tokens` tokens in a pass."""
    values: list[float] = []
    for batch in split_micro_batches(examples, max_tokens, count_tokens=lambda example: len(example.token_ids)):
        with loaded.autocast():
            scores = score(loaded.model, pack(batch, loaded.device))
        values += (scores.sequence_logp_B / scores.length_B).exp().tolist()
    return values


def compute_mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)
