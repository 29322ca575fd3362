"""Draws batches of examples in a seeded, resumable order."""

import numpy as np


class BatchStream:
    """An endless stream of batches: each epoch is shuffled by the seed; a batch may straddle two epochs.

    The order depends only on (seed, epoch), so the state is two numbers and a restored stream continues exactly.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        if num_examples < 1 or batch_size < 1:
            raise ValueError(f"cannot draw batches of {batch_size} from {num_examples} examples")
        self._num_examples, self._batch, self._seed = num_examples, batch_size, seed
        self._seek(epoch=0, offset=0)

    def next_batch(self) -> list[int]:
        """Return the indices of the next batch."""
        indices: list[int] = []
        while len(indices) < self._batch:
            if self._offset == self._num_examples:
                self._seek(epoch=self._epoch + 1, offset=0)
            taken = self._order[self._offset : self._offset + self._batch - len(indices)]
            indices += taken
            self._offset += len(taken)
        return indices

    def state_dict(self) -> dict[str, int]:
        """Return the position of the stream as plain numbers."""
        return {"epoch": self._epoch, "offset": self._offset}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the state of a stream with the same arguments."""
        self._seek(epoch=state["epoch"], offset=state["offset"])

    def _seek(self, *, epoch: int, offset: int) -> None:
        self._epoch, self._offset = epoch, offset
        self._order: list[int] = np.random.default_rng([self._seed, epoch]).permutation(self._num_examples).tolist()
