"""Runs a loaded model on a few tokens to find out what it can do; each check compares with single, unpadded texts.

Tolerances are loose because kernels and compute types round: what they look for is off by whole units.
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
    """Raise ValueError when a later token changes an earlier one's scores: log-probabilities would mean nothing."""
    first = _some_ids(model, 12)
    second = [*first[:8], *reversed(first[8:])]
    one, other = (_alone(model, ids)[:8] for ids in (first, second))
    if not _is_close(other, one):
        raise ValueError(
            f"{type(model).__name__} sees the tokens that it should predict: it reads texts in both directions and is "
            "no causal language model as config.json has it (encoders need is_decoder: true)"
        )


@torch.no_grad()
def require_padding(model: PreTrainedModel) -> None:
    """Raise ValueError unless texts of different lengths in one padded batch score as each does alone."""
    ids = tuple(_some_ids(model, 40))
    examples = [Example(ids[:5], 1, 1), Example(ids[5:28], 1, 2), Example(ids[28:], 1, 3)]
    alone = torch.cat([_alone(model, list(example.token_ids))[:-1] for example in examples])
    if not _is_close(score(model, pack(examples, model.device)).logits_PV, alone):
        raise ValueError(
            f"{type(model).__name__} scores a text differently beside other texts in a batch, so nothing measured on "
            "it would hold; it cannot be used here"
        )


@torch.no_grad()
def can_decode_cached(model: PreTrainedModel) -> bool:
    """Say whether left padding, a cache and dropping a finished row give the next-token scores of the whole texts."""
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return False  # chunks are counted from the padding on, and longer than what could be tried here
    long = _some_ids(model, 9)
    short = long[:4]
    try:
        cache = RowCache(DynamicCache(config=model.config), keeps_tokens=False)
        ids_BL = torch.tensor([[0] * 5 + short, long], device=model.device)
        mask_BW = torch.tensor([[0] * 5 + [1] * 4, [1] * 9], device=model.device)
        position_BL = (mask_BW.cumsum(1) - 1).clamp(min=0)
        found = [compute_next_logits(model, ids_BL, mask_BW, position_BL, cache)]
        cache.select_rows(torch.tensor([0], device=model.device))
        mask_BW = torch.cat([mask_BW[:1], mask_BW.new_ones(1, 1)], dim=1)
        token_11 = ids_BL.new_full((1, 1), long[0])
        found.append(compute_next_logits(model, token_11, mask_BW, position_BL[:1, -1:] + 1, cache))
    except Exception:  # a cache of another kind, or none: architectures say so in their own ways
        return False
    expected = [_alone(model, ids)[-1:] for ids in (short, long, [*short, long[0]])]
    return _is_close(torch.cat(found), torch.cat(expected))


def _some_ids(model: PreTrainedModel, length: int) -> list[int]:
    return [(7 * i + 3) % model.get_input_embeddings().num_embeddings for i in range(length)]


def _alone(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Return the logits of one text without padding, (T, V)."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return logits


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Say whether scores are the same but for rounding; what is not finite is not."""
    if found.shape != expected.shape:
        return False
    scale = expected.float().abs().amax().clamp(min=1.0)
    return bool((found - expected).float().abs().amax() <= _TOLERANCE * scale)
