"""Which sequences a step is made of can be said afterwards; that they are trained, test_several_processes.py proves."""

import numpy as np
import pytest

from smollm3_ft import order


def test_an_epoch_takes_every_sequence_once() -> None:
    """The order of an epoch is a permutation, another one for another epoch or seed, and always the same."""
    orders = [order.epoch_order(seed, epoch, 100) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert all(np.array_equal(np.sort(one), np.arange(100)) for one in orders)
    assert len({one.tobytes() for one in orders}) == 3
    assert np.array_equal(order.epoch_order(1, 1, 100), orders[1])


def test_the_order_is_not_to_change() -> None:
    """A run of last year is asked for its rows: these numbers must stay."""
    assert order.epoch_order(42, 1, 8).tolist() == [1, 2, 5, 6, 0, 3, 4, 7]


@pytest.mark.parametrize(("count", "effective"), [(23, 4), (24, 4), (3, 8), (1, 1)])
def test_the_steps_of_an_epoch_are_the_epoch(count: int, effective: int) -> None:
    """One after the other, an epoch's steps take its order; its last step takes what is left."""
    steps = -(-count // effective)
    for epoch in range(3):
        taken = [order.sequences_of_step(7, epoch * steps + step, count, effective) for step in range(1, steps + 1)]
        assert np.array_equal(np.concatenate(taken), order.epoch_order(7, epoch, count))
        assert order.epoch_of_step((epoch + 1) * steps, count, effective) == epoch
