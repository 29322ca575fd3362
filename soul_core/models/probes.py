"""Runs a loaded model on a few tokens to determine its capabilities; each probe compares with single, unpadded texts.

The tolerance is loose because kernels and compute types round; the faults that are probed for differ by whole units.

Shapes: B rows, L tokens of a call, W tokens of the longest row, V vocabulary size.
"""

import torch
from transformers import DynamicCache, PreTrainedModel

from soul_core.data.encoding import Example
from soul_core.data.packing import pack
from soul_core.models.decoding import RowCache, compute_next_logits
from soul_core.models.scoring import score

_TOLERANCE = 1e-2


@torch.no_grad()
def require_causal(model: PreTrainedModel) -> None:
    """Raise ValueError if a later token changes an earlier one's scores: log-probabilities would be meaningless."""
    first = _make_ids(model, 12)
    second = [*first[:8], *reversed(first[8:])]
    first_logits, second_logits = (_compute_logits(model, ids)[:8] for ids in (first, second))
    if not _is_close(second_logits, first_logits):
        raise ValueError(
            f"{type(model).__name__} reads texts in both directions, so it sees the tokens that it should predict; "
            "give a causal language model (for an encoder trained as one, set is_decoder to true in config.json)"
        )


@torch.no_grad()
def require_padding(model: PreTrainedModel) -> None:
    """Raise ValueError unless texts of different lengths in one padded batch have the scores of single texts."""
    ids = tuple(_make_ids(model, 40))
    examples = [Example(ids[:5], 1, 1), Example(ids[5:28], 1, 2), Example(ids[28:], 1, 3)]
    expected = torch.cat([_compute_logits(model, list(example.token_ids))[:-1] for example in examples])
    if not _is_close(score(model, pack(examples, model.device)).logits_PV, expected):
        raise ValueError(
            f"{type(model).__name__} scores a text differently in a batch with other texts, so measurements would be "
            "wrong; give another model"
        )


@torch.no_grad()
def can_decode_cached(model: PreTrainedModel) -> bool:
    """Return whether left padding, a cache and the removal of a row give the next-token scores of complete texts."""
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return False  # chunks are counted from the padding, and are longer than these texts
    long = _make_ids(model, 9)
    short = long[:4]
    try:
        cache = RowCache(DynamicCache(config=model.config), keeps_tokens=False)
        ids_BL = torch.tensor([[0] * 5 + short, long], device=model.device)
        mask_BW = torch.tensor([[0] * 5 + [1] * 4, [1] * 9], device=model.device)
        position_BL = (mask_BW.cumsum(1) - 1).clamp(min=0)
        logits = [compute_next_logits(model, ids_BL, mask_BW, position_BL, cache)]
        cache.select_rows(torch.tensor([0], device=model.device))
        mask_BW = torch.cat([mask_BW[:1], mask_BW.new_ones(1, 1)], dim=1)
        token_11 = ids_BL.new_full((1, 1), long[0])
        logits.append(compute_next_logits(model, token_11, mask_BW, position_BL[:1, -1:] + 1, cache))
    except Exception:  # a cache of another kind, or none: architectures raise exceptions of any class
        return False
    expected = [_compute_logits(model, ids)[-1:] for ids in (short, long, [*short, long[0]])]
    return _is_close(torch.cat(logits), torch.cat(expected))


def _make_ids(model: PreTrainedModel, length: int) -> list[int]:
    return [(7 * index + 3) % model.get_input_embeddings().num_embeddings for index in range(length)]


def _compute_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Return the logits of one text without padding, (T, V)."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return logits


def _is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether scores are equal except for rounding; False if one is not finite."""
    if actual.shape != expected.shape:
        return False
    scale = expected.float().abs().amax().clamp(min=1.0)
    return bool((actual - expected).float().abs().amax() <= _TOLERANCE * scale)
