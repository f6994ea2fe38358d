"""Best-fit packing: documents into sequences of at most `capacity` tokens, wasting little.

Method: best-fit decreasing (Johnson 1974; for language models: Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"). A document goes whole into the fullest sequence that has room for it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of documents, sequence by sequence. Every length must be at most `capacity`; the result is determined."""
    sequences: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of open_by_room, sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        position = bisect.bisect_left(rooms, length)
        if position == len(rooms):
            sequence, room = len(sequences), capacity
            sequences.append([])
        else:
            room = rooms[position]
            sequence = open_by_room[room].pop()
            if not open_by_room[room]:
                del open_by_room[room], rooms[position]
        sequences[sequence].append(index)
        left = room - length
        if left not in open_by_room:
            open_by_room[left] = []
            bisect.insort(rooms, left)
        open_by_room[left].append(sequence)
    return sequences
