"""The order in which training takes its sequences: a function of the seed and the epoch, so that it can be asked later.

Every epoch takes every sequence once. Its last step takes what is left. How many processes train changes nothing of it:
a step's sequences are dealt out to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Sequences = npt.NDArray[np.int64]


def epoch_order(seed: int, epoch: int, count: int) -> Sequences:
    """The sequences of an epoch, in the order they are trained on."""
    # RandomState's numbers are the same in every version of numpy, by its promise.
    return np.random.RandomState([seed, epoch]).permutation(count).astype(np.int64)


def epoch_of_step(step: int, count: int, effective_batch_size: int) -> int:
    """The epoch, counted from 0, that a step, counted from 1, belongs to."""
    return (step - 1) // math.ceil(count / effective_batch_size)


def sequences_of_step(seed: int, step: int, count: int, effective_batch_size: int) -> Sequences:
    """The sequences that a step, counted from 1, is made of: the micro-batches of all devices, one after the other."""
    epoch = epoch_of_step(step, count, effective_batch_size)
    first = (step - 1) % math.ceil(count / effective_batch_size) * effective_batch_size
    return epoch_order(seed, epoch, count)[first : first + effective_batch_size]


def micro_batches(sequences: Sequences, batch_size: int, processes: int) -> Iterator[list[Sequences]]:
    """The micro-batches of a step's sequences, each as the shares of the processes, at most `batch_size` a share.

    Every process has a share in every micro-batch, since their gradients are summed. What is left at the end of an
    epoch is dealt out evenly, and a share is empty only where fewer sequences than processes are left.
    """
    rounds = math.ceil(len(sequences) / (batch_size * processes))
    shares = np.array_split(sequences, rounds * processes)
    for index in range(0, len(shares), processes):
        yield shares[index : index + processes]
