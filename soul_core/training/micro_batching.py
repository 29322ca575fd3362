"""Micro-batches: a forward pass holds so many tokens, and fewer from then on when memory runs out."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from soul_core.data.encoding import Example
from soul_core.data.packing import split_micro_batches
from soul_core.errors import OutOfMemory
from soul_core.events import Listener
from soul_core.objectives.terms import ExampleGroup


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One sequence of a step: which group reads it, and its index in its set."""

    group: ExampleGroup
    index: int
    example: Example


#: Items that must share a forward pass: what a paired term (a preference) compares.
BatchUnit = tuple[BatchItem, ...]


@dataclass(slots=True)
class MicroBatcher:
    """Runs something over micro-batches, in smaller ones from then on when memory runs out."""

    max_tokens: int
    listener: Listener

    def run(
        self, units: Sequence[BatchUnit], work: Callable[[list[BatchItem]], None], undo: Callable[[], None]
    ) -> None:
        """Call `work` on the items of each micro-batch; after lack of memory `undo` and begin again, smaller.

        Raises OutOfMemory when even one unit is too much.
        """
        while True:
            batches = list(split_micro_batches(units, self.max_tokens, count_tokens=_tokens))
            try:
                for batch in batches:
                    work([item for unit in batch for item in unit])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                if all(len(batch) == 1 for batch in batches):
                    most = max(map(_tokens, units))
                    raise OutOfMemory(
                        f"not enough memory to train on one sequence of {most} tokens; lower training.max_tokens, or "
                        "take a smaller model or a larger machine"
                    ) from None
            else:
                return
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            largest = max(sum(map(_tokens, batch)) for batch in batches if len(batch) > 1)
            self.max_tokens = largest // 2
            self.listener.emit(
                "warning", message=f"memory ran out; going on with at most {self.max_tokens} tokens in a forward pass"
            )


def _tokens(unit: BatchUnit) -> int:
    return sum(len(item.example.token_ids) for item in unit)


def _lacks_memory(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "not enough memory" in text
    )
