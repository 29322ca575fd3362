"""Batches come in a seeded order that a restored stream continues exactly."""

import pytest

from soul_core.data.sampling import BatchStream


def test_every_example_comes_once_an_epoch_in_an_order_of_the_seed():
    stream = BatchStream(10, 4, seed=3)
    drawn = [index for _ in range(5) for index in stream.next_batch()]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    again = BatchStream(10, 4, seed=3)
    assert [index for _ in range(5) for index in again.next_batch()] == drawn
    assert [index for _ in range(5) for index in BatchStream(10, 4, seed=4).next_batch()] != drawn


def test_a_batch_may_be_larger_than_the_set():
    drawn = BatchStream(3, 7, seed=0).next_batch()
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_a_restored_stream_continues_exactly(steps):
    stream = BatchStream(7, 3, seed=11)
    for _ in range(steps):
        stream.next_batch()
    state = stream.state_dict()
    expected = [stream.next_batch() for _ in range(10)]
    restored = BatchStream(7, 3, seed=11)
    restored.load_state_dict(state)
    assert [restored.next_batch() for _ in range(10)] == expected
