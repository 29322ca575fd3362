"""Micro-batches: a forward pass takes a limited number of tokens, and fewer after memory has run out."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from soul_core.data.encoding import Example
from soul_core.data.packing import split_micro_batches
from soul_core.errors import OutOfMemory
from soul_core.events import Listener
from soul_core.objectives.terms import ExampleGroup


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One sequence of a step, the group it belongs to, and its index in its data set."""

    group: ExampleGroup
    index: int
    example: Example


#: Items that must share a forward pass: those that a paired term (a preference) compares.
BatchUnit = tuple[BatchItem, ...]


@dataclass(slots=True)
class MicroBatcher:
    """Calls a function on micro-batches, on smaller ones after memory has run out. Its state is the limit in tokens."""

    max_tokens: int
    listener: Listener

    def run(
        self, units: Sequence[BatchUnit], work: Callable[[list[BatchItem]], None], undo: Callable[[], None]
    ) -> None:
        """Call `work` on the items of each micro-batch; when memory runs out, call `undo` and start again with half
        the tokens.

        Raises:
            OutOfMemory: A single unit is too large.
        """
        while True:
            batches = list(split_micro_batches(units, self.max_tokens, count_tokens=_count_tokens))
            try:
                for batch in batches:
                    work([item for unit in batch for item in unit])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if all(len(batch) == 1 for batch in batches):
                    raise OutOfMemory(
                        f"not enough memory to train on one sequence of {max(map(_count_tokens, units))} tokens; lower "
                        "training.max_tokens, or take a smaller model or a larger machine"
                    ) from None
            else:
                return
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.max_tokens = max(sum(map(_count_tokens, batch)) for batch in batches if len(batch) > 1) // 2
            self.listener.emit(
                "warning", message=f"memory ran out; a forward pass now takes at most {self.max_tokens} tokens"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the limit."""
        return {"max_tokens": self.max_tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the limit."""
        self.max_tokens = state_dict["max_tokens"]


def _count_tokens(unit: BatchUnit) -> int:
    return sum(len(item.example.token_ids) for item in unit)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch reports that of the CPU as a RuntimeError."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)
        or "not enough memory" in str(error)
    )
