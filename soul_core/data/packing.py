"""Examples laid end to end without padding, and micro-batches of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from soul_core.chat.template import count_common_prefix
from soul_core.data.encoding import Example

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Examples laid end to end: T tokens in all, P of them supervised. `packed_attention` keeps them apart."""

    token_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor  # from 0 in each example
    segment_lengths: tuple[int, ...]  # tokens of each segment, an example or a group of them; sums to T
    supervised_P: torch.Tensor  # the positions in T whose logits predict the labels (one before the label's own)
    labels_P: torch.Tensor
    sequence_P: torch.Tensor  # which example, 0.., each supervised position belongs to
    num_sequences: int
    #: Of each segment: tokens of its prompt and of each answer to it; () where there is one answer only.
    branch_lengths: tuple[tuple[int, ...], ...]


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay examples end to end on `device`."""
    return pack_groups([[example] for example in examples], device)


def pack_groups(groups: Sequence[Sequence[Example]], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay groups end to end. The examples of a group are answers to one prompt, which is laid down once.

    Where a token straddles the end of the prompt (a space and the first letter of an answer), what the group shares
    ends before it, and the rest of the prompt belongs to each answer. Sequences are numbered through all groups.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    supervised: list[int] = []
    labels: list[int] = []
    sequence: list[int] = []
    lengths: list[int] = []
    branches: list[tuple[int, ...]] = []
    num_sequences = 0
    for group in groups:
        offset, shared = len(token_ids), count_shared_tokens(group)
        token_ids += group[0].token_ids[:shared]
        positions += range(shared)
        for example in group:
            branch = example.token_ids[shared:]
            num_answer = len(example.token_ids) - example.num_prompt_tokens
            assert shared >= 1, "an example supervises no first token"
            assert num_answer >= 1, "an example supervises at least one token"
            begins, ends = len(token_ids) + example.num_prompt_tokens - shared, len(token_ids) + len(branch)
            first = begins - 1 if example.num_prompt_tokens > shared else offset + shared - 1
            supervised += [first, *range(begins, ends - 1)]
            labels += example.token_ids[example.num_prompt_tokens :]
            sequence += [num_sequences] * num_answer
            num_sequences += 1
            token_ids += branch
            positions += range(shared, shared + len(branch))
        lengths.append(len(token_ids) - offset)
        branch_lengths = [len(example.token_ids) - shared for example in group]
        branches.append((shared, *branch_lengths) if len(group) > 1 else ())
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    return PackedBatch(
        token_ids_1T=tensor([token_ids]),
        position_ids_1T=tensor([positions]),
        segment_lengths=tuple(lengths),
        supervised_P=tensor(supervised),
        labels_P=tensor(labels),
        sequence_P=tensor(sequence),
        num_sequences=num_sequences,
        branch_lengths=tuple(branches),
    )


def count_shared_tokens(group: Sequence[Example]) -> int:
    """Return how many tokens at the beginning all examples of a group have in common, at most a prompt."""
    limit = min(example.num_prompt_tokens for example in group)
    first = group[0].token_ids[:limit]
    for example in group[1:]:
        if example.token_ids[:limit] != first[:limit]:
            limit = count_common_prefix(first, example.token_ids[:limit])
    return limit


def split_micro_batches(items: Sequence[T], max_tokens: int, *, count_tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """Split into runs of consecutive items of at most `max_tokens` tokens each; `tokens` says how many an item has.

    One item longer than that gets a run of its own.
    """
    batch: list[T] = []
    room = max_tokens
    for item in items:
        needed = count_tokens(item)
        if batch and needed > room:
            yield batch
            batch, room = [], max_tokens
        batch.append(item)
        room -= needed
    if batch:
        yield batch
