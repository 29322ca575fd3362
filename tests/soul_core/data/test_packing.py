"""Packed batches hold every example once, with its labels one position after their logits."""

import torch

from soul_core.data.encoding import Example
from soul_core.data.packing import pack, split_micro_batches


def test_packing_places_labels_one_after_their_logits():
    packed = pack([Example((10, 11, 12), 1, 1), Example((20, 21, 22, 23), 3, 2)])
    assert packed.token_ids_1T.tolist() == [[10, 11, 12, 20, 21, 22, 23]]
    assert packed.position_ids_1T.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert packed.segment_lengths == (3, 4)
    assert packed.supervised_P.tolist() == [0, 1, 5]
    assert packed.labels_P.tolist() == [11, 12, 23]
    assert packed.sequence_P.tolist() == [0, 0, 1]
    assert packed.labels_P.dtype == torch.long


def test_micro_batches_keep_order_lose_nothing_and_respect_the_limit():
    batches = list(split_micro_batches([5, 5, 3, 30, 2, 8, 1], 10, count_tokens=int))
    assert batches == [[5, 5], [3], [30], [2, 8], [1]]
    assert list(split_micro_batches([], 10, count_tokens=int)) == []
