"""Attention for examples concatenated without padding: one causal call per segment, without a T x T mask.

`load_model` loads models with `attn_implementation=PACKED_ATTENTION`. The same model then serves both uses:

* **Packed** (training, scoring): `model(input_ids=packed.token_ids_1T, position_ids=packed.position_ids_1T,
  use_cache=False, logits_to_keep=packed.supervised_P, **make_packed_kwargs(packed))`. `make_packed_kwargs` returns
  `segment_lengths` (a tuple of ints, which transformers passes to every attention layer) and `attention_mask` (an
  empty 4-D tensor, so that transformers builds no mask). Never pass another mask.
* **Padded** (generation): an ordinary call with a 2-D `attention_mask`, left padding and a cache, exactly as "sdpa".

A layer that receives one of the two keywords without the other raises; with a cache or a mask of ones transformers
would let examples attend to each other without an error. `check_isolation` tests this on a loaded model, and also that
no layer's mask differs from causal order and its window: chunks longer than every example would otherwise go unnoticed.

Shapes: 1 batch, H heads, T tokens of a pack, L tokens of a segment, D size of a head.
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

#: Keywords of attention calls that the segment loop below does not support, and what they mean.
_UNSUPPORTED = {"s_aux": "attention sinks", "position_bias": "a learned position bias", "cache": "a paged cache"}


def make_packed_kwargs(packed: PackedBatch) -> dict[str, Any]:
    """Return the keywords that keep attention inside each example of `packed`."""
    device = packed.token_ids_1T.device
    no_mask = torch.empty((1, 1, 0, 0), dtype=torch.bool, device=device)
    keywords: dict[str, Any] = {"attention_mask": no_mask, "segment_lengths": packed.segment_lengths}
    if any(packed.branch_lengths):
        keywords["segment_distances"] = tuple(_compute_distances(lengths, device) for lengths in packed.branch_lengths)
    return keywords


def _compute_distances(branch_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
    """Return the distance (L, L) from each token back to every other one of a prompt and its answers; -1: not visible.

    None if there is one answer only: causal order is enough then.
    """
    if not branch_lengths:
        return None
    num_prompt, *answers = branch_lengths
    places = [*range(num_prompt), *(num_prompt + index for length in answers for index in range(length))]
    branches = [0] * num_prompt + [branch for branch, length in enumerate(answers, start=1) for _ in range(length)]
    place_L, branch_L = torch.tensor(places, device=device), torch.tensor(branches, device=device)
    visible_LL = (branch_L == 0) | (branch_L == branch_L[:, None])  # the prompt and its own answer
    return torch.where(visible_LL, place_L[:, None] - place_L, -1).clamp(min=-1)


def register_packed_attention() -> None:
    """Register `attn_implementation=PACKED_ATTENTION` with transformers. May be repeated."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
    AttentionMaskInterface.register(PACKED_ATTENTION, _make_mask)  # padded calls only


@dataclass(slots=True)
class _MaskLog:
    """The masks that were made in one unpacked call, and those that the layers used."""

    masks: list[tuple[torch.Tensor, Callable[..., torch.Tensor]]] = field(default_factory=list)
    layers: list[tuple[torch.Tensor | None, int | None]] = field(default_factory=list)  # mask, window


_mask_logs: list[_MaskLog] = []  # of nested contexts; the last one is written


@contextmanager
def _log_masks() -> Iterator[_MaskLog]:
    _mask_logs.append(_MaskLog())
    try:
        yield _mask_logs[-1]
    finally:
        _mask_logs.pop()


def _make_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Make the mask of an unpacked call as "sdpa" does, and log it."""
    if not _mask_logs:
        return cast("torch.Tensor | None", sdpa_mask(*args, **kwargs))
    mask = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    _mask_logs[-1].masks.append((mask, kwargs["mask_function"]))
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
    """Compute attention by transformers' protocol: inputs (1, H, T, D), output (1, T, H, D)."""
    unpadded = attention_mask is not None and attention_mask.ndim == 4 and attention_mask.numel() == 0
    if segment_lengths is None and not unpadded:
        if _mask_logs:
            _mask_logs[-1].layers.append((attention_mask, kwargs.get("sliding_window")))
        if kwargs.get("softcap") is not None:
            return _attend_padded_with_softcap(module, query, key, value, attention_mask, **kwargs), None
        return cast(
            "tuple[torch.Tensor, None]", sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        )
    if (
        segment_lengths is None
        or not unpadded
        or sum(segment_lengths) != key.shape[2]
        or query.shape[2] != key.shape[2]
    ):
        raise ValueError("a packed call needs segment_lengths and the mask of make_packed_kwargs(), and no cache")
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
    """Compute attention inside one segment: (1, H, L, D) each; key and value have fewer heads under GQA.

    With `distance` (L, L) the segment is a prompt and its answers; without it the segment is causal.
    """
    length = query.shape[2]
    is_windowed = sliding_window is not None and length > sliding_window
    if distance is None and not is_windowed and softcap is None:
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
    if is_windowed:
        allowed &= distance < cast("int", sliding_window)  # transformers counts the token itself
    if softcap is not None:
        return _attend_with_softcap(
            module, query, key, value, allowed, scaling=scaling, dropout=dropout, softcap=softcap
        )
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_padded_with_softcap(
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
    """Compute attention with a softcap in a padded call, which SDPA cannot do. Without a mask it is causal."""
    if attention_mask is None:
        num_query, num_key = query.shape[2], key.shape[2]
        attention_mask = torch.ones((num_query, num_key), dtype=torch.bool, device=query.device)
        if num_query > 1:
            attention_mask = attention_mask.tril()
    output = _attend_with_softcap(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap
    )
    return output.transpose(1, 2).contiguous()


def _attend_with_softcap(
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
    """Compute attention with scores softcap * tanh(score / softcap) before the softmax, as Gemma 2 does."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, p=dropout, training=module.training) @ value


@torch.no_grad()
def check_isolation(model: PreTrainedModel, *, tolerance: float = 1e-2) -> None:
    """Raise ValueError unless packed examples have the scores of single ones.

    The tolerance is loose because kernels and compute types round differently; a leak differs by whole units.
    """
    device = next(model.parameters()).device
    num_tokens = model.get_input_embeddings().num_embeddings
    ids = tuple((7 * index + 3) % num_tokens for index in range(11))
    examples = [Example(ids[:5], 1, 1), Example(ids[5:], 1, 2)]
    refusal = f"{type(model).__name__} cannot be trained on packed examples"
    try:
        packed = _compute_packed_logits(model, pack(examples, device))
        with _log_masks() as log:
            plain = torch.cat(
                [
                    model(torch.tensor([example.token_ids], device=device), use_cache=False).logits[0, :-1]
                    for example in examples
                ]
            )
        has_unusual_mask = any(_is_unusual(log, mask, window, device) for mask, window in log.layers)
    except Exception as error:  # architectures fail with exceptions of any class
        raise ValueError(f"{refusal}: {error}") from error
    scale = plain.float().abs().amax().clamp(min=1.0)
    if packed.shape != plain.shape or not ((packed - plain).float().abs().amax() <= tolerance * scale):
        raise ValueError(f"{refusal}: they would attend to each other")
    if has_unusual_mask:
        raise ValueError(f"{refusal}: the mask of its layers is not causal order within their window")
    if not log.layers:
        raise ValueError(f"{refusal}: it has no attention layers that support another attention function")


def _is_unusual(log: _MaskLog, mask: torch.Tensor | None, window: int | None, device: torch.device) -> bool:
    """Return whether a layer's mask differs anywhere from causal order within its window.

    The mask's function is evaluated at positions far beyond the length of any call.
    """
    if mask is None:
        return False
    functions = [function for made, function in log.masks if made.data_ptr() == mask.data_ptr()]
    if not functions:
        return True
    reach = 1 << 22
    distances = sorted({0, *(1 << power for power in range(23)), *((window - 1, window, window + 1) if window else ())})
    zero = torch.zeros((), dtype=torch.long, device=device)
    distance_D = torch.tensor(distances, device=device)
    expected_D = distance_D < window if window else distance_D >= 0
    return any(
        not torch.equal(functions[0](zero, zero, zero + query, query - distance_D).expand(len(distances)), expected_D)
        for query in (2 * reach, 2 * reach + 12_345)
    )


def _compute_packed_logits(model: PreTrainedModel, packed: PackedBatch) -> torch.Tensor:
    output = model(
        input_ids=packed.token_ids_1T,
        position_ids=packed.position_ids_1T,
        use_cache=False,
        logits_to_keep=packed.supervised_P,
        **make_packed_kwargs(packed),
    )
    return cast("torch.Tensor", output.logits[0])


register_packed_attention()
