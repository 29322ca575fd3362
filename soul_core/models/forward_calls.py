"""How packed examples go through a model: in one packed call, or as padded rows where attention cannot be packed.

Rows are padded on the right: what follows a token changes nothing about it in a causal model, so positions count from
0 as they do alone, whether an architecture learns them, rotates by them or has none. Padding takes an attention mask
too. Rows of like length share a call, so that little is computed for nothing; a prompt that several answers share is
laid down once for each. Shape legend: B rows, W tokens of the longest row; the rest as in `scoring`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from soul_core.data.packing import PackedBatch
from soul_core.models.capabilities import get_capabilities
from soul_core.models.packed_attention import make_packed_kwargs

#: A call takes rows as long as padding stays below this share of its tokens; short calls may waste a little more.
_MOST_PADDING = 0.25
_FREE_PADDING = 64


@dataclass(frozen=True, slots=True)
class ForwardCall:
    """One call of the model."""

    kwargs: dict[str, Any]
    positions_C: torch.Tensor  # the wanted positions, in outputs laid out row after row
    order_C: torch.Tensor | None = None  # which of all wanted positions these are; None: all of them, in order


def make_forward_calls(model: PreTrainedModel, packed: PackedBatch) -> list[ForwardCall]:
    """Return the calls that score `packed` with this model."""
    if get_capabilities(model).batch_layout == "packed":
        keywords = {
            "input_ids": packed.token_ids_1T,
            "position_ids": packed.position_ids_1T,
            "use_cache": False,
            "logits_to_keep": packed.supervised_P,
            **make_packed_kwargs(packed),
        }
        return [ForwardCall(keywords, packed.supervised_P)]
    rows = _rows(packed)
    place_P = packed.position_ids_1T[0, packed.supervised_P]  # within its own row
    return [
        _padded_call([packed.token_ids_1T[0, rows[row]] for row in chosen], chosen, packed.sequence_P, place_P)
        for chosen in _share(model, [len(row) for row in rows])
    ]


def make_last_token_calls(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> list[ForwardCall]:
    """Return the padded calls that give what follows each row of tokens."""
    sequence_P = torch.arange(len(rows), device=model.device)
    place_P = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    return [
        _padded_call([rows[row] for row in chosen], chosen, sequence_P, place_P)
        for chosen in _share(model, [len(row) for row in rows])
    ]


def compute_logits(model: PreTrainedModel, call: ForwardCall) -> torch.Tensor:
    """Run the model and return its logits at the wanted positions, (C, V).

    The vocabulary projection sees these positions only: by `logits_to_keep`, else by choosing what goes into it.
    """
    if call.order_C is None:
        logits_CV: torch.Tensor = model(**call.kwargs).logits[0]
        return logits_CV
    with _chosen_before_projection(model, call):
        logits: torch.Tensor = model(**call.kwargs).logits
    if logits.shape[:2] == call.kwargs["input_ids"].shape:  # the architecture projects in another way
        return logits.flatten(0, 1)[call.positions_C]
    return logits[0]


def restore_order(calls: Sequence[ForwardCall], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put together what each call gave at its wanted positions: (P, ...) in the order they were wanted."""
    orders = [call.order_C for call in calls]
    if orders[0] is None:
        return parts[0]
    return torch.cat(list(parts))[torch.argsort(torch.cat([order for order in orders if order is not None]))]


def select_positions(calls: Sequence[ForwardCall], outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a layer's outputs, (B, W, D) of each call, at the wanted positions: (P, D)."""
    parts = [output.flatten(0, 1)[call.positions_C] for call, output in zip(calls, outputs, strict=True)]
    return restore_order(calls, parts)


def _rows(packed: PackedBatch) -> list[torch.Tensor]:
    """Return where in the pack each sequence's tokens lie: its segment, or the shared prompt and its own answer."""
    index_T = torch.arange(packed.token_ids_1T.shape[1], device=packed.token_ids_1T.device)
    rows = []
    for segment_L, branches in zip(index_T.split(packed.segment_lengths), packed.branch_lengths, strict=True):
        prompt, *answers = segment_L.split(branches or (len(segment_L),))
        rows += [torch.cat([prompt, answer]) for answer in answers] or [prompt]
    return rows


def _share(model: PreTrainedModel, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the rows of each call, longest first: rows of like length, and of one set of rotary frequencies."""
    limit = get_capabilities(model).max_short_rope_tokens
    shared: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        width = lengths[shared[0]] if shared else 0
        padding = width * (len(shared) + 1) - tokens - lengths[row]
        other_frequencies = limit is not None and lengths[row] <= limit < width
        if shared and (other_frequencies or padding > max(_FREE_PADDING, _MOST_PADDING * (tokens + lengths[row]))):
            yield shared
            shared, tokens = [], 0
        shared.append(row)
        tokens += lengths[row]
    yield shared


def _padded_call(
    rows: Sequence[torch.Tensor], chosen: Sequence[int], sequence_P: torch.Tensor, place_P: torch.Tensor
) -> ForwardCall:
    """Return the call on some rows; `chosen` are their numbers in `sequence_P`."""
    device = sequence_P.device
    ids_BW = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    length_B = torch.tensor([len(row) for row in rows], device=device)
    mask_BW = (torch.arange(ids_BW.shape[1], device=device) < length_B[:, None]).long()
    numbers = torch.tensor(list(chosen), device=device)
    order_C, row_C = (sequence_P[:, None] == numbers).nonzero(as_tuple=True)
    return ForwardCall(
        {"input_ids": ids_BW, "attention_mask": mask_BW, "use_cache": False},
        positions_C=row_C * ids_BW.shape[1] + place_P[order_C],
        order_C=order_C,
    )


@contextmanager
def _chosen_before_projection(model: PreTrainedModel, call: ForwardCall) -> Iterator[None]:
    """Let only the wanted positions reach the vocabulary projection, as one row of C positions."""
    head = model.get_output_embeddings()
    shape = call.kwargs["input_ids"].shape

    def choose(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0]
        if hidden.ndim != 3 or hidden.shape[:2] != shape:
            return None
        return (hidden.flatten(0, 1)[call.positions_C][None], *inputs[1:])

    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(choose, prepend=True)  # who watches the projection sees these positions too
    try:
        yield
    finally:
        hook.remove()
