"""What preparation keeps in memory of every row, in arrays: which repeat others, and which are held out.

A row's digest says which rows are the same, and decides by chance of its own which are held out, so that added rows
move no other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from smollm3_ft.config import Data
from smollm3_ft.errors import ConfigError, DataError, Problem
from smollm3_ft.packing import Sequences
from smollm3_ft.preparing import Done

SPLITS = ("train", "validation", "test")
HELD_OUT = ("test", "validation")  # in the order they are drawn
Indices = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """Every usable row, duplicates included: an entry a row; `parts` is its number of documents.

    `format` is an index into `formats.FORMATS`.
    """

    source: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]  # as it was given: an index into SPLITS
    place: npt.NDArray[np.int32]
    line: npt.NDArray[np.int32]
    notes: npt.NDArray[np.uint8]
    format: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.int32]
    digest: npt.NDArray[np.uint64]  # (rows, 2)

    def __len__(self) -> int:
        return len(self.source)


def gather(done: list[tuple[Done, int]]) -> Rows:
    """One table of the rows of all blocks, each given with the index of its place."""

    def spread(values: list[int], kind: type[np.generic]) -> npt.NDArray[np.generic]:
        return np.repeat(np.array(values, dtype=kind), [len(one.lines) for one, _ in done])

    return Rows(
        spread([one.task.source for one, _ in done], np.int32),  # type: ignore[arg-type]
        spread([one.task.split for one, _ in done], np.int8),  # type: ignore[arg-type]
        spread([place for _, place in done], np.int32),  # type: ignore[arg-type]
        np.concatenate([one.lines for one, _ in done]),
        np.concatenate([one.notes for one, _ in done]),
        np.concatenate([one.format for one, _ in done]),
        np.concatenate([one.parts for one, _ in done]),
        np.concatenate([one.digests for one, _ in done]),
    )


def duplicates(rows: Rows, dedup: str) -> Indices:
    """Of each row the first that says the same, where that is another one, else -1.

    Held-out rows come first, so it is training that loses a row. Without deduplication, only training rows that repeat
    a held-out one: nothing is on both sides.
    """
    order = np.lexsort((np.arange(len(rows)), rows.digest[:, 1], rows.digest[:, 0]))
    same: npt.NDArray[np.bool_] = (rows.digest[order][1:] == rows.digest[order][:-1]).all(axis=1)
    first = np.full(len(rows), -1, dtype=np.int64)
    if not len(rows):
        return first
    group = np.concatenate([[0], np.cumsum(~same)])
    first[order] = order[np.concatenate([[True], ~same])][group]
    repeated = first != np.arange(len(rows))
    if dedup != "exact":
        repeated &= (rows.split == 0) & (rows.split[first] != 0)
    return np.where(repeated, first, -1)


def split(rows: Rows, kept: Indices, data: Data, seed: int) -> dict[str, Indices]:
    """Kept rows of each split: the given ones, and from the training rows what the settings take."""
    members = {name: kept[rows.split[kept] == index] for index, name in enumerate(SPLITS)}
    if not len(members["train"]):
        raise DataError("no training row is left", "see the quarantine: rows that repeat a held-out row are dropped")
    for column, (name, wanted) in enumerate((("test", data.test), ("validation", data.validation))):
        if len(members[name]) or wanted is None:
            continue
        if isinstance(wanted, str):
            raise DataError(f"no source has a split {wanted}", f"set data.{name} to a share, to rows, or to none")
        train = members["train"]
        draws = _draws(rows.digest[train, column], seed)
        if wanted < 1:
            held = draws < np.uint64(wanted * 2**64)
            held = held if held.any() else draws == draws.min()  # at least a row
        else:
            held = draws <= np.sort(draws)[min(len(train), int(wanted)) - 1]  # of rows that are the same, all
        members[name], members["train"] = train[held], train[~held]
        if not len(members["train"]):
            what = f"data.{name}={wanted} leaves none of {len(kept)} rows to train on"
            raise DataError(what, "give more rows, or hold out fewer")
    return members


def mix(rows: Rows, train: Indices, weights: list[float | None], seed: int) -> tuple[Indices, list[int]]:
    """The training rows of a mixture: every row at least once, and rows of sources that would be too small a share
    again, whole copies and a part drawn by the seed. Returns them, and how many of each source are repeats."""
    if all(weight is None for weight in weights):
        return train, [0] * len(weights)
    of_source = [train[rows.source[train] == index] for index in range(len(weights))]
    needed = [weight / len(held) for weight, held in zip(weights, of_source, strict=True) if weight and len(held)]
    mixed = []
    repeats = []
    for weight, held in zip(weights, of_source, strict=True):
        assert weight is not None
        wanted = round(weight / min(needed))  # rows; one source has all of its own, and no more
        copies = max(1, wanted // len(held)) if len(held) else 1
        by_draw = held[np.argsort(_draws(rows.digest[held, 0] ^ rows.digest[held, 1], seed), kind="stable")]
        rest = by_draw[: max(0, wanted - copies * len(held))]
        mixed += [*[held] * copies, np.sort(rest)]
        repeats.append((copies - 1) * len(held) + len(rest))
    return np.concatenate(mixed), repeats


def sequences(rows: Rows, members: Indices) -> Sequences:
    """The documents of each row, a sequence a row, not packed."""
    ends = np.cumsum(rows.parts, dtype=np.int64)
    parts = rows.parts[members]
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return Sequences(np.repeat((ends - rows.parts)[members], parts) + within, np.cumsum(parts, dtype=np.int64))


def check_weights(weights: list[float | None]) -> None:
    """Raise ConfigError where only some sources have a weight."""
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        remedy = "give every source a weight, or none"
        raise ConfigError(Problem("data.source", "some sources have a weight and some have none", remedy))


def _draws(digests: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """A number in [0, 2**64) for each digest, of it and the seed alone. Method: splitmix64's finalizer."""
    with np.errstate(over="ignore"):
        mixed = digests + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
