"""Documents go whole into sequences, and little room is wasted."""

import numpy as np
import pytest

from smollm3_ft import packing


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """The packed documents, sequence by sequence."""
    packed = packing.pack(np.array(lengths, dtype=np.int64), capacity)
    starts = [0, *packed.ends.tolist()]
    return [packed.order[start:end].tolist() for start, end in zip(starts, packed.ends, strict=False)]


def lengths(seed: int, count: int, capacity: int) -> list[int]:
    """Log-normal lengths, as those of conversations are."""
    drawn = np.random.default_rng(seed).lognormal(5.0, 1.0, count)
    return [int(length) for length in np.clip(drawn, 1, capacity)]


@pytest.mark.parametrize("capacity", [256, 2048])
def test_every_document_once_and_none_too_long(capacity: int) -> None:
    """Each document is in exactly one sequence, and no sequence exceeds the capacity."""
    given = lengths(0, 3000, capacity)
    packed = pack(given, capacity)
    assert sorted(index for sequence in packed for index in sequence) == list(range(len(given)))
    assert max(sum(given[index] for index in sequence) for sequence in packed) <= capacity


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sequences_are_full(seed: int) -> None:
    """At least 98 % of the room is used on log-normal lengths."""
    given = lengths(seed, 5000, 2048)
    assert sum(given) / (len(pack(given, 2048)) * 2048) >= 0.98


def test_determined() -> None:
    """The same lengths are packed the same way."""
    given = lengths(4, 500, 512)
    assert pack(given, 512) == pack(given, 512)


@pytest.mark.parametrize(
    ("given", "packed"),
    [
        ([], []),
        ([8], [[0]]),
        ([8, 8], [[0], [1]]),
        ([3, 8, 5], [[1], [2, 0]]),
        ([4, 4, 4], [[0, 1], [2]]),
        ([5, 6, 2], [[1, 2], [0]]),
    ],
)
def test_small_cases(given: list[int], packed: list[list[int]]) -> None:
    """A document joins the fullest sequence that has room for it."""
    assert pack(given, 8) == packed
