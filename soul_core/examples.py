"""Rows to masked token examples, packing without padding, and the seeded, resumable order of examples.

Loss falls on answers only, and the token that ends an answer is learned with it. Masks come from lengths, never from
token ids: `eos` may well be `pad`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from soul_core.errors import BadData
from soul_core.rows import Row

T = TypeVar("T")
_PROBE = "SOUL"  # an answer nobody's template contains


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens. Positions `num_prompt`.. are supervised; `num_prompt` is at least 1."""

    token_ids: tuple[int, ...]
    num_prompt: int
    row: int  # the row's number in its file


@dataclass(frozen=True, slots=True)
class Packed:
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


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> list[Example]:
    """Encode every row as prompt + completion + end of answer (plain text: start + text, no end: it goes on).

    Raises BadData naming every row that is too long, too short or refused by the chat template.
    """
    end_id = answer_end_id(tokenizer)
    examples, problems = [], []
    for row in rows:
        try:
            example = _encode(row, tokenizer, end_id)
        except ValueError as error:
            problems.append(f"row {row.number}: {error}")
            continue
        if len(example.token_ids) > max_tokens:
            problems.append(f"row {row.number}: {too_long(len(example.token_ids), max_tokens)}")
        examples.append(example)
    if problems:
        raise BadData(f"{len(problems)} of {len(rows)} rows cannot be used with this model", details=tuple(problems))
    return examples


def too_long(num_tokens: int, max_tokens: int) -> str:
    """Return what is said of an example that is too long, and what decides how long it may be."""
    return f"{num_tokens} tokens, the limit is {max_tokens} (training.max_tokens, the model's context at most)"


def prompt_ids(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens after which the model is asked to answer; of plain text, what starts a text (or nothing)."""
    encode = partial(tokenizer.encode, add_special_tokens=False)
    if not row.messages:
        return _start_ids(tokenizer)
    if tokenizer.chat_template:
        return encode(_render(tokenizer, row.messages, ask=True))  # the template writes its own start token
    return _start_ids(tokenizer) + encode(_plain_prompt(row))


def answer_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an answer: what the chat template puts behind one, else `eos`."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
        tail = rendered[rendered.rindex(_PROBE) + len(_PROBE) :].lstrip()
        ids = tokenizer.encode(tail, add_special_tokens=False)
        if ids and ids[0] in tokenizer.added_tokens_decoder:
            return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise BadData("the tokenizer has no end-of-sequence token, so answers could never end")
    return int(tokenizer.eos_token_id)


def _encode(row: Row, tokenizer: PreTrainedTokenizerBase, end_id: int) -> Example:
    encode = partial(tokenizer.encode, add_special_tokens=False)
    prompt = prompt_ids(row, tokenizer)
    if not row.messages:
        token_ids = prompt + encode(row.completion)
        if len(token_ids) < 2:
            raise ValueError("a text of fewer than two tokens predicts nothing")
        return Example(tuple(token_ids), max(1, len(prompt)), row.number)
    if tokenizer.chat_template:
        head, answer = _render(tokenizer, row.messages, ask=True), row.completion
    else:
        head, answer = _plain_prompt(row), row.completion
        if not (head[-1:].isspace() or answer[:1].isspace()):
            answer = " " + answer
    start = [] if tokenizer.chat_template else _start_ids(tokenizer)
    # Tokens of the whole text where the prompt's are their beginning: what the model writes by itself after the
    # prompt. Where a token would straddle the border the parts are encoded apart: the mask must be exact.
    whole = start + encode(head + answer)
    if whole[: len(prompt)] != prompt:
        whole = prompt + encode(answer)
    if len(whole) == len(prompt):
        raise ValueError("the completion has no tokens")
    return Example((*whole, end_id), len(prompt), row.number)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], *, ask: bool) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
    except Exception as error:  # a template may raise anything: jinja's errors, or its own complaint about roles
        raise ValueError(f"the model's chat template refuses these messages: {error}") from error


def _plain_prompt(row: Row) -> str:
    return "\n".join(message.content for message in row.messages)


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return [bos] where this tokenizer puts one before every text, else nothing."""
    bos = tokenizer.bos_token_id
    return [int(bos)] if bos is not None and tokenizer.encode(_PROBE)[:1] == [bos] else []


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Packed:
    """Lay examples end to end on `device`."""
    return pack_groups([[example] for example in examples], device)


def pack_groups(groups: Sequence[Sequence[Example]], device: torch.device | str = "cpu") -> Packed:
    """Lay groups end to end. The examples of a group are answers to one prompt, which is laid down once.

    Sequences are numbered through all groups, in order.
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
        offset, num_prompt = len(token_ids), group[0].num_prompt
        prompt = group[0].token_ids[:num_prompt]
        token_ids += prompt
        positions += range(num_prompt)
        for example in group:
            answer = example.token_ids[num_prompt:]
            assert num_prompt >= 1, "an example supervises at least one token after its first"
            assert answer, "an example supervises at least one token after its first"
            assert example.token_ids[:num_prompt] == prompt, "a group shares its prompt"
            supervised += [offset + num_prompt - 1, *range(len(token_ids), len(token_ids) + len(answer) - 1)]
            labels += answer
            sequence += [num_sequences] * len(answer)
            num_sequences += 1
            token_ids += answer
            positions += range(num_prompt, num_prompt + len(answer))
        lengths.append(len(token_ids) - offset)
        answers = [len(example.token_ids) - num_prompt for example in group]
        branches.append((num_prompt, *answers) if len(group) > 1 else ())
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    return Packed(
        token_ids_1T=tensor([token_ids]),
        position_ids_1T=tensor([positions]),
        segment_lengths=tuple(lengths),
        supervised_P=tensor(supervised),
        labels_P=tensor(labels),
        sequence_P=tensor(sequence),
        num_sequences=num_sequences,
        branch_lengths=tuple(branches),
    )


def micro_batches(items: Sequence[T], max_tokens: int, *, tokens: Callable[[T], int]) -> Iterator[list[T]]:
    """Split into runs of consecutive items of at most `max_tokens` tokens each; `tokens` says how many an item has.

    One item longer than that gets a run of its own.
    """
    batch: list[T] = []
    room = max_tokens
    for item in items:
        needed = tokens(item)
        if batch and needed > room:
            yield batch
            batch, room = [], max_tokens
        batch.append(item)
        room -= needed
    if batch:
        yield batch


class BatchStream:
    """Which examples each step takes: epochs shuffled by the seed, without end; a batch may straddle two epochs.

    The order depends on (seed, epoch) alone, so the state is two numbers and a restored stream continues exactly.
    """

    def __init__(self, num_examples: int, batch: int, seed: int) -> None:
        if num_examples < 1 or batch < 1:
            raise ValueError(f"cannot draw batches of {batch} from {num_examples} examples")
        self._num_examples, self._batch, self._seed = num_examples, batch, seed
        self._seek(epoch=0, offset=0)

    def next(self) -> list[int]:
        """Return the indices of the next batch."""
        drawn: list[int] = []
        while len(drawn) < self._batch:
            if self._offset == self._num_examples:
                self._seek(epoch=self._epoch + 1, offset=0)
            taken = self._order[self._offset : self._offset + self._batch - len(drawn)]
            drawn += taken
            self._offset += len(taken)
        return drawn

    def state(self) -> dict[str, int]:
        """Return where the stream stands, as plain numbers."""
        return {"epoch": self._epoch, "offset": self._offset}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a state of a stream with the same arguments."""
        self._seek(epoch=state["epoch"], offset=state["offset"])

    def _seek(self, *, epoch: int, offset: int) -> None:
        self._epoch, self._offset = epoch, offset
        self._order: list[int] = np.random.default_rng([self._seed, epoch]).permutation(self._num_examples).tolist()
