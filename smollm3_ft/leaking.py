"""Training rows that leak held-out ones: found, named with both lines, and left out where that is asked."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import numpy.typing as npt

from smollm3_ft import leaks, ledger, shards
from smollm3_ft.conversations import Note
from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.gathered import HELD_OUT, Indices, Rows
from smollm3_ft.leaks import Leak

SHOWN = 20


def near(
    store: shards.Documents, facts: shards.Facts, rows: Rows, members: dict[str, Indices], seed: int
) -> list[Leak]:
    """Training rows that are nearly a held-out row, by the tokens of all their documents."""
    document_ends = np.cumsum(facts.lengths, dtype=np.int64)
    ends = document_ends[np.cumsum(rows.parts, dtype=np.int64) - 1]
    sizes = np.diff(ends, prepend=0)

    def tokens(chosen: Indices) -> tuple[npt.NDArray[np.int32], Indices]:
        ids, _ = store.read(ends[chosen] - sizes[chosen], ends[chosen])
        return ids, np.cumsum(sizes[chosen])

    return leaks.found(tokens, members["train"], np.concatenate([members[split] for split in HELD_OUT]), seed)


def exclude(
    found: list[Leak],
    rows: Rows,
    members: dict[str, Indices],
    accounts: list[ledger.Account],
    places: list[str],
    dropped: IO[str],
) -> None:
    """Drop training rows that leak. Raises DataError where none is left."""
    for leak in found:
        account = accounts[rows.source[leak.train]]
        bad = BadRow("leak", f"{leak.alike:.2f} alike to {_where(leak.held_out, rows, places)}, which is held out")
        account.drop(bad, places[rows.place[leak.train]], int(rows.line[leak.train]), dropped)
        account.kept -= 1
        for note in Note:
            account.noted[str(note.name).lower()] -= int(rows.notes[leak.train] & note != 0)
    members["train"] = members["train"][~np.isin(members["train"], [leak.train for leak in found])]
    if not len(members["train"]):
        raise DataError("every training row is nearly a held-out one", "see the quarantine, or hold out other rows")


def entry(
    exact: list[Leak],
    found: list[Leak],
    rows: Rows,
    members: dict[str, Indices],
    places: list[str],
    excluded: bool,
) -> dict[str, Any]:
    """The ledger's part: how many there are, and the first of them with both places.

    What repeats a held-out row is left out of training in any case; what is nearly one where that is asked.
    """
    held = {split: set(members[split].tolist()) for split in HELD_OUT}

    def told(leak: Leak) -> dict[str, Any]:
        split = next((name for name, indices in held.items() if leak.held_out in indices), None)
        return {
            "row": _where(leak.train, rows, places),
            "held_out": _where(leak.held_out, rows, places),
            "split": split,
            "alike": round(leak.alike, 3),
        }

    near = sorted(found, key=lambda leak: -leak.alike)
    return {
        "exact": len(exact),
        "near": len(found),
        "excluded": len(exact) + (len(found) if excluded else 0),
        "first": [told(leak) for leak in (*exact[:SHOWN], *near[:SHOWN])],
    }


def _where(row: int, rows: Rows, places: list[str]) -> str:
    return f"{places[rows.place[row]]}:{rows.line[row]}"
