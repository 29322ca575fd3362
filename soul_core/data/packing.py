"""Packs examples: concatenates them without padding, and splits them into micro-batches."""

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
    """Concatenated examples: T tokens in total, P of them supervised. `packed_attention` keeps them apart."""

    token_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor  # start at 0 in each example
    segment_lengths: tuple[int, ...]  # tokens of each segment (an example or a group); the sum is T
    supervised_P: torch.Tensor  # positions in T whose logits predict the labels (one before the label itself)
    labels_P: torch.Tensor
    sequence_P: torch.Tensor  # index of the example to which each supervised position belongs
    num_sequences: int
    branch_lengths: tuple[tuple[int, ...], ...]
    """Per segment: tokens of the prompt and of each answer to it; () if there is one answer only."""


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> PackedBatch:
    """Concatenate examples on `device`."""
    return pack_groups([[example] for example in examples], device)


def pack_groups(groups: Sequence[Sequence[Example]], device: torch.device | str = "cpu") -> PackedBatch:
    """Concatenate groups. The examples of a group are answers to one prompt, which is stored once.

    If a token straddles the end of the prompt (a space and the first letter of an answer), the shared part ends before
    it, and the rest of the prompt belongs to each answer. Sequences are numbered across all groups.
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
    """Return how many first tokens all examples of a group share, at most the prompt."""
    limit = min(example.num_prompt_tokens for example in group)
    first = group[0].token_ids[:limit]
    for example in group[1:]:
        if example.token_ids[:limit] != first[:limit]:
            limit = count_common_prefix(first, example.token_ids[:limit])
    return limit


def split_micro_batches(items: Sequence[T], max_tokens: int, *, count_tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """Split items into consecutive batches of at most `max_tokens` tokens; a longer item gets a batch of its own."""
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
