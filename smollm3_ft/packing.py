"""Best-fit packing: documents into sequences of at most `capacity` tokens, wasting little.

Method: best-fit decreasing (Johnson 1974; for language models: Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"). A document goes whole into the fullest sequence that has room for it.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Sequences(NamedTuple):
    """Documents in sequences: their indices, sequence by sequence, and where in `order` each sequence ends."""

    order: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)


def alone(documents: npt.NDArray[np.int64]) -> Sequences:
    """Each document a sequence of its own."""
    return Sequences(documents, np.arange(1, len(documents) + 1))


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> Sequences:
    """Positions in `lengths`, packed. Every length must be at most `capacity`; the result is determined."""
    longest_first = np.argsort(-lengths, kind="stable")
    sequence_of = np.empty(len(lengths), dtype=np.int64)  # numbers, not lists: there may be millions
    open_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of open_by_room, sorted
    count = 0
    for at, length in enumerate(map(int, lengths[longest_first])):
        position = bisect.bisect_left(rooms, length)
        if position == len(rooms):
            sequence, room = count, capacity
            count += 1
        else:
            room = rooms[position]
            sequence = open_by_room[room].pop()
            if not open_by_room[room]:
                del open_by_room[room], rooms[position]
        sequence_of[at] = sequence
        left = room - length
        if left not in open_by_room:
            open_by_room[left] = []
            bisect.insort(rooms, left)
        open_by_room[left].append(sequence)
    order = longest_first[np.argsort(sequence_of, kind="stable")]
    return Sequences(order, np.cumsum(np.bincount(sequence_of, minlength=count)))
