"""The calls of a model that score packed examples: one packed call, or padded rows if its attention cannot be packed.

Rows are padded on the right, with an attention mask: in a causal model later tokens change nothing about a token, and
positions count from 0 as in a single text, whether an architecture learns them, rotates by them or has none. Rows of
similar length share a call, so that few padding tokens are computed. A prompt that several answers share is copied for
each of them.

Shapes: B rows of a call, W tokens of the longest row, T tokens of a pack, P requested positions of all calls, C of one
call, D hidden size, V vocabulary size. A name ends in its shape: `logits_CV`.
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

#: A call takes rows while padding stays below this fraction of its tokens, or below this number of tokens.
_MAX_PADDING_FRACTION = 0.25
_MAX_FREE_PADDING = 64


@dataclass(frozen=True, slots=True)
class ForwardCall:
    """One call of the model."""

    kwargs: dict[str, Any]
    positions_C: torch.Tensor  # the requested positions, in outputs flattened row by row
    order_C: torch.Tensor | None = None  # their numbers among all requested positions; None: all of them, in order


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
    rows = _find_rows(packed)
    place_P = packed.position_ids_1T[0, packed.supervised_P]  # within its own row
    return [
        _make_padded_call([packed.token_ids_1T[0, rows[row]] for row in group], group, packed.sequence_P, place_P)
        for group in _group_rows(model, [len(row) for row in rows])
    ]


def make_last_token_calls(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> list[ForwardCall]:
    """Return the padded calls that give the logits after the last token of each row."""
    sequence_P = torch.arange(len(rows), device=model.device)
    place_P = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    return [
        _make_padded_call([rows[row] for row in group], group, sequence_P, place_P)
        for group in _group_rows(model, [len(row) for row in rows])
    ]


def compute_logits(model: PreTrainedModel, call: ForwardCall) -> torch.Tensor:
    """Run the model and return its logits at the requested positions, (C, V).

    The vocabulary projection gets these positions only: by `logits_to_keep`, else by a hook that selects its inputs.
    """
    if call.order_C is None:
        logits_CV: torch.Tensor = model(**call.kwargs).logits[0]
        return logits_CV
    with _select_before_projection(model, call):
        logits: torch.Tensor = model(**call.kwargs).logits
    if logits.shape[:2] == call.kwargs["input_ids"].shape:  # the hook did not apply
        return logits.flatten(0, 1)[call.positions_C]
    return logits[0]


def restore_order(calls: Sequence[ForwardCall], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate the calls' results at their requested positions: (P, ...) in the order of the request."""
    orders = [call.order_C for call in calls]
    if orders[0] is None:
        return parts[0]
    return torch.cat(list(parts))[torch.argsort(torch.cat([order for order in orders if order is not None]))]


def select_positions(calls: Sequence[ForwardCall], outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a layer's outputs, (B, W, D) of each call, at the requested positions: (P, D)."""
    parts = [output.flatten(0, 1)[call.positions_C] for call, output in zip(calls, outputs, strict=True)]
    return restore_order(calls, parts)


def _find_rows(packed: PackedBatch) -> list[torch.Tensor]:
    """Return the indices in the pack of each sequence's tokens: its segment, or the shared prompt and its answer."""
    index_T = torch.arange(packed.token_ids_1T.shape[1], device=packed.token_ids_1T.device)
    rows = []
    for segment_L, branches in zip(index_T.split(packed.segment_lengths), packed.branch_lengths, strict=True):
        prompt, *answers = segment_L.split(branches or (len(segment_L),))
        rows += [torch.cat([prompt, answer]) for answer in answers] or [prompt]
    return rows


def _group_rows(model: PreTrainedModel, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the rows of each call, longest first: rows of similar length and of one set of rotary frequencies."""
    limit = get_capabilities(model).max_short_rope_tokens
    group: list[int] = []
    num_tokens = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        width = lengths[group[0]] if group else 0
        num_padding = width * (len(group) + 1) - num_tokens - lengths[row]
        max_padding = max(_MAX_FREE_PADDING, _MAX_PADDING_FRACTION * (num_tokens + lengths[row]))
        changes_frequencies = limit is not None and lengths[row] <= limit < width
        if group and (changes_frequencies or num_padding > max_padding):
            yield group
            group, num_tokens = [], 0
        group.append(row)
        num_tokens += lengths[row]
    yield group


def _make_padded_call(
    rows: Sequence[torch.Tensor], numbers: Sequence[int], sequence_P: torch.Tensor, place_P: torch.Tensor
) -> ForwardCall:
    """Return the call on some rows; `numbers` are those of the rows in `sequence_P`."""
    device = sequence_P.device
    ids_BW = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    length_B = torch.tensor([len(row) for row in rows], device=device)
    mask_BW = (torch.arange(ids_BW.shape[1], device=device) < length_B[:, None]).long()
    number_B = torch.tensor(list(numbers), device=device)
    order_C, row_C = (sequence_P[:, None] == number_B).nonzero(as_tuple=True)
    return ForwardCall(
        {"input_ids": ids_BW, "attention_mask": mask_BW, "use_cache": False},
        positions_C=row_C * ids_BW.shape[1] + place_P[order_C],
        order_C=order_C,
    )


@contextmanager
def _select_before_projection(model: PreTrainedModel, call: ForwardCall) -> Iterator[None]:
    """Pass only the requested positions to the vocabulary projection, as one row of C positions."""
    head = model.get_output_embeddings()
    shape = call.kwargs["input_ids"].shape

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0]
        if hidden.ndim != 3 or hidden.shape[:2] != shape:
            return None
        return (hidden.flatten(0, 1)[call.positions_C][None], *inputs[1:])

    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(select, prepend=True)  # other hooks get these positions too
    try:
        yield
    finally:
        hook.remove()
