"""Attention for examples laid end to end without padding: one causal call a segment, no T x T mask.

`models.load_model` loads every model with `attn_implementation=PACKED`. The same model then serves both uses:

* **Packed** (training, scoring): `model(input_ids=packed.token_ids_1T, position_ids=packed.position_ids_1T,
  use_cache=False, logits_to_keep=packed.supervised_P, **packed_kwargs(packed))`. `packed_kwargs` returns
  `segment_lengths` (a tuple of ints, which transformers hands on to every attention layer) and `attention_mask`
  (an empty 4-D tensor, which makes transformers build no mask of its own). Never pass another mask beside it.
* **Padded** (generation): an ordinary call with a 2-D `attention_mask`, left padding and a cache, exactly as "sdpa".

A layer that receives one of the two keywords without the other raises instead of letting examples see each other:
with a cache or a mask of ones transformers would do that silently. `check_isolation` proves it for a loaded model, and
that no layer asks its mask for more than causal order and its window: chunks longer than any example would not show.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from soul_core.data.encoding import Example
from soul_core.data.packing import PackedBatch, pack

PACKED_ATTENTION = "soul_packed"

#: Keywords by which transformers asks attention for something the segment loop below does not compute.
_UNSUPPORTED = {"s_aux": "attention sinks", "position_bias": "a learned position bias", "cache": "a paged cache"}


def make_packed_kwargs(packed: PackedBatch) -> dict[str, Any]:
    """Return the keywords that keep attention inside each example of `packed`."""
    device = packed.token_ids_1T.device
    no_mask = torch.empty((1, 1, 0, 0), dtype=torch.bool, device=device)
    keywords: dict[str, Any] = {"attention_mask": no_mask, "segment_lengths": packed.segment_lengths}
    if any(packed.branch_lengths):
        keywords["segment_distances"] = tuple(_distances(lengths, device) for lengths in packed.branch_lengths)
    return keywords


def _distances(branch_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
    """Return how many places back each token (row) finds each other (column) of one prompt and its answers, -1: never.

    None where there is one answer only, and causal order says it all.
    """
    if not branch_lengths:
        return None
    num_prompt, *answers = branch_lengths
    places = [*range(num_prompt), *(num_prompt + i for length in answers for i in range(length))]
    branches = [0] * num_prompt + [branch for branch, length in enumerate(answers, start=1) for _ in range(length)]
    place_L, branch_L = torch.tensor(places, device=device), torch.tensor(branches, device=device)
    sees_LL = (branch_L == 0) | (branch_L == branch_L[:, None])  # the prompt, and its own answer
    return torch.where(sees_LL, place_L[:, None] - place_L, -1).clamp(min=-1)


def register_packed_attention() -> None:
    """Make `attn_implementation=PACKED` known to transformers. Harmless when repeated."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
    AttentionMaskInterface.register(PACKED_ATTENTION, _make_mask)  # only padded calls get here


@dataclass(slots=True)
class _Record:
    """What the layers of a model asked for in one unpacked call."""

    masks: list[tuple[torch.Tensor, Callable[..., torch.Tensor]]] = field(default_factory=list)
    layers: list[tuple[torch.Tensor | None, int | None]] = field(default_factory=list)  # mask, window


_records: list[_Record] = []  # the innermost is written to


@contextmanager
def _recording() -> Iterator[_Record]:
    _records.append(_Record())
    try:
        yield _records[-1]
    finally:
        _records.pop()


def _make_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Make the mask of an unpacked call as SDPA does."""
    if not _records:
        return cast("torch.Tensor | None", sdpa_mask(*args, **kwargs))
    mask = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    _records[-1].masks.append((mask, kwargs["mask_function"]))
    return cast("torch.Tensor", mask)


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segment_lengths: tuple[int, ...] | None = None,
    segment_distances: tuple[torch.Tensor | None, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks an attention function to: heads second in, heads third out (1, T, H, D)."""
    unpadded = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.numel() == 0
    if segment_lengths is None and not unpadded:
        if _records:
            _records[-1].layers.append((attention_mask, kwargs.get("sliding_window")))
        if kwargs.get("softcap") is not None:
            return _capped_padded(module, query, key, value, attention_mask, **kwargs), None
        return cast(
            "tuple[torch.Tensor, None]", sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        )
    if (
        segment_lengths is None
        or not unpadded
        or sum(segment_lengths) != key.shape[2]
        or query.shape[2] != key.shape[2]
    ):
        raise ValueError("a packed call needs segment_lengths, its mask from packed_kwargs(), and no cache")
    for keyword, meaning in _UNSUPPORTED.items():
        if kwargs.get(keyword) is not None:
            raise ValueError(f"{type(module).__name__} uses {meaning}, which packed attention does not compute")
    distances = segment_distances or (None,) * len(segment_lengths)
    outputs = [
        _attend_segment(module, *parts, distance=distance, **kwargs)
        for *parts, distance in zip(
            *(x.split(segment_lengths, dim=2) for x in (query, key, value)), distances, strict=True
        )
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend_segment(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    distance: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attend inside one segment: (1, H, L, D) each, key and value with fewer heads under GQA.

    `distance` (L, L) says what sees what in a group of answers to one prompt; without it a segment is plainly causal.
    """
    length = query.shape[2]
    windowed = sliding_window is not None and length > sliding_window
    if distance is None and not windowed and softcap is None:
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            scale=scaling,
            is_causal=length > 1,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    if distance is None:
        distance = torch.arange(length, device=query.device)[:, None] - torch.arange(length, device=query.device)
    allowed = distance >= 0
    if windowed:
        allowed &= distance < cast("int", sliding_window)  # as transformers counts: the token itself included
    if softcap is not None:
        return _capped(module, query, key, value, allowed, scaling=scaling, dropout=dropout, softcap=softcap)
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _capped_padded(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    softcap: float,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> torch.Tensor:
    """Attend with a softcap in a padded call, which SDPA cannot do. No mask means plainly causal, as with SDPA."""
    if attention_mask is None:
        num_query, num_key = query.shape[2], key.shape[2]
        attention_mask = torch.ones((num_query, num_key), dtype=torch.bool, device=query.device)
        if num_query > 1:
            attention_mask = attention_mask.tril()
    capped = _capped(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap)
    return capped.transpose(1, 2).contiguous()


def _capped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor,
    *,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> torch.Tensor:
    """Attend with scores squashed by softcap * tanh(score / softcap), as Gemma 2 does before the softmax."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, p=dropout, training=module.training) @ value


@torch.no_grad()
def check_isolation(model: PreTrainedModel, *, tolerance: float = 1e-2) -> None:
    """Raise ValueError unless packed examples score as they do apart: architectures differ, silence would be worse.

    The tolerance is loose because kernels and compute types round differently; a leak is off by whole units.
    """
    device = next(model.parameters()).device
    num_tokens = model.get_input_embeddings().num_embeddings
    ids = tuple((7 * i + 3) % num_tokens for i in range(11))
    together = [Example(ids[:5], 1, 1), Example(ids[5:], 1, 2)]
    refusal = f"{type(model).__name__} cannot be trained on packed examples"
    try:
        packed = _logits(model, pack(together, device))
        with _recording() as record:
            plain = torch.cat(
                [
                    model(torch.tensor([one.token_ids], device=device), use_cache=False).logits[0, :-1]
                    for one in together
                ]
            )
        unusual = any(_is_unusual(record, mask, window, device) for mask, window in record.layers)
    except Exception as error:  # each architecture breaks in its own way: all of them mean "not this one"
        raise ValueError(f"{refusal}: {error}") from error
    scale = plain.float().abs().amax().clamp(min=1.0)
    if packed.shape != plain.shape or not ((packed - plain).float().abs().amax() <= tolerance * scale):
        raise ValueError(f"{refusal}: they would see each other")
    if unusual:
        raise ValueError(f"{refusal}: its layers ask for another mask than causal order and their window")
    if not record.layers:
        raise ValueError(f"{refusal}: it has no attention layers that can be given it")


def _is_unusual(record: _Record, mask: torch.Tensor | None, window: int | None, device: torch.device) -> bool:
    """Say whether a layer's mask differs, anywhere, from causal order within its window.

    The mask's own function is asked about positions that no call could afford.
    """
    if mask is None:
        return False
    found = [ask for made, ask in record.masks if made.data_ptr() == mask.data_ptr()]
    if not found:
        return True
    reach = 1 << 22
    distances = sorted({0, *(1 << power for power in range(23)), *((window - 1, window, window + 1) if window else ())})
    zero = torch.zeros((), dtype=torch.long, device=device)
    distance_D = torch.tensor(distances, device=device)
    expected_D = distance_D < window if window else distance_D >= 0
    return any(
        not torch.equal(found[0](zero, zero, zero + query, query - distance_D).expand(len(distances)), expected_D)
        for query in (2 * reach, 2 * reach + 12_345)
    )


def _logits(model: PreTrainedModel, packed: PackedBatch) -> torch.Tensor:
    output = model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        use_cache=False,
        logits_to_keep=packed.supervised_P,
        **make_packed_kwargs(packed),
    )
    return cast("torch.Tensor", output.logits[0])


register_packed_attention()
