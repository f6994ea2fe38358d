"""Training rows that say nearly what a held-out row says: found by MinHash, and proved by what they share.

A row is the set of its runs of SHINGLE tokens, without those that many rows have, such as a shared system message. Two
rows are alike by the Jaccard index of their sets. MinHash signatures with locality-sensitive hashing (Broder 1997;
Indyk and Motwani 1998; by rensa) leave few suspects of many rows, and these are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rensa

from smollm3_ft.gathered import Indices

SHINGLE = 5  # tokens
ALIKE = 0.8  # of two sets, the share that both have
PERMUTATIONS, BANDS = 64, 16  # of rows that alike, 999 in 1,000 are suspected; of those half as alike, one in seven
ROWS_AT_ONCE = 250  # whose shingles stay in a core's cache
SAMPLE, COMMON, FEW = 500, 0.1, 10  # what more than FEW and a share COMMON of so many rows have is common
TABLE_BITS = 20
MULTIPLIERS = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
Hashes = npt.NDArray[np.uint64]
Tokens = Callable[[Indices], tuple[npt.NDArray[np.int32], Indices]]  # of rows: all their tokens, and the end of each


class Leak(NamedTuple):
    """A training row, the held-out row that it is most like, both as indices of rows, and how much alike they are."""

    train: int
    held_out: int
    alike: float


class Sets(NamedTuple):
    """Shingles of several rows one after the other, and the end of each row."""

    hashes: Hashes
    ends: Indices


def found(tokens: Tokens, train: Indices, held_out: Indices, seed: int) -> list[Leak]:
    """Each training row that is alike to a held-out row. Memory grows with the suspects alone."""
    if not len(train) or not len(held_out):
        return []
    common = _common(tokens, train, seed)
    suspects = _suspects(tokens, train, _index(tokens, held_out, common, seed), common, seed)
    if not len(suspects):
        return []
    like = _suspects(tokens, held_out, _index(tokens, suspects, common, seed), common, seed)
    return list(_proved(tokens, suspects, like, common))


def _common(tokens: Tokens, train: Indices, seed: int) -> npt.NDArray[np.bool_]:
    """A table of shingles that many rows have, by their highest bits: what else has the same bits goes with them."""
    chosen = np.sort(np.random.default_rng(seed).choice(train, min(SAMPLE, len(train)), replace=False))
    table = np.zeros(1 << TABLE_BITS, dtype=np.bool_)
    sets = [_unique(sets) for sets in _sets(tokens, chosen, table)]
    hashes, counts = np.unique(np.concatenate([hashes for one in sets for hashes in one]), return_counts=True)
    table[_place(hashes[counts > max(FEW, COMMON * len(chosen))])] = True
    return table


def _index(tokens: Tokens, rows: Indices, common: npt.NDArray[np.bool_], seed: int) -> rensa.RMinHashLSH:
    """An index of rows. Each is in it twice: rensa tells of a row whether there are two that may be like it."""
    index = rensa.RMinHashLSH(ALIKE, PERMUTATIONS, BANDS)
    at = 0
    for sets in _sets(tokens, rows, common):
        signatures = _signatures(sets, seed)
        for _ in range(2):
            index.insert_matrix(signatures, at)
            at += len(sets.ends)
    return index


def _suspects(
    tokens: Tokens, rows: Indices, index: rensa.RMinHashLSH, common: npt.NDArray[np.bool_], seed: int
) -> Indices:
    """The rows that may be like one of an index."""
    flags = [
        index.query_duplicate_flags_matrix(_signatures(sets, seed)) & (np.diff(sets.ends, prepend=0) > 0)
        for sets in _sets(tokens, rows, common)
    ]
    return np.asarray(rows[np.concatenate(flags)])


def _signatures(sets: Sets, seed: int) -> rensa.RMinHashDigestMatrix:
    offsets = np.concatenate([[0], sets.ends]).astype(np.uint64)
    return rensa.RMinHash.digest_matrix_from_flat_token_hashes(sets.hashes, offsets, PERMUTATIONS, seed)


def _proved(tokens: Tokens, suspects: Indices, like: Indices, common: npt.NDArray[np.bool_]) -> Iterator[Leak]:
    """Of each suspect the held-out row that is most like it, if it is alike."""
    held = [hashes for sets in _sets(tokens, like, common) for hashes in _unique(sets)]
    if not held:
        return
    sizes = np.array([len(hashes) for hashes in held])
    everything, owner = np.concatenate(held), np.repeat(np.arange(len(held)), sizes)
    order = np.argsort(everything, kind="stable")
    everything, owner = everything[order], owner[order]
    known = (hashes for sets in _sets(tokens, suspects, common) for hashes in _unique(sets))
    for row, hashes in zip(suspects.tolist(), known, strict=True):
        first, after = (np.searchsorted(everything, hashes, side) for side in ("left", "right"))
        spans = [owner[at:end] for at, end in zip(first, after, strict=True) if end > at]
        if not spans:
            continue
        shared = np.bincount(np.concatenate(spans), minlength=len(held))
        alike = shared / (len(hashes) + sizes - shared)
        best = int(alike.argmax())
        if alike[best] >= ALIKE:
            yield Leak(row, int(like[best]), float(alike[best]))


def _unique(sets: Sets) -> list[Hashes]:
    return [np.unique(hashes) for hashes in np.split(sets.hashes, sets.ends[:-1])]


def _sets(tokens: Tokens, rows: Indices, common: npt.NDArray[np.bool_]) -> Iterator[Sets]:
    """The shingles of rows, some rows at a time, without the common ones."""
    for at in range(0, len(rows), ROWS_AT_ONCE):
        ids, ends = tokens(rows[at : at + ROWS_AT_ONCE])
        hashes = _hashed(ids)
        kept = ~common[_place(hashes)]
        for offset in range(1, SHINGLE):  # a shingle lies in one row
            borders = ends - offset
            kept[borders[(borders >= 0) & (borders < len(kept))]] = False
        counts = np.concatenate([[0], np.cumsum(kept)])
        yield Sets(hashes[kept], counts[np.minimum(ends, len(kept))])


def _hashed(ids: npt.NDArray[np.int32]) -> Hashes:
    """A number for the shingle that begins at each token but the last ones."""
    first, second, third = MULTIPLIERS
    values = ids.astype(np.uint64)
    with np.errstate(over="ignore"):
        pairs = (values[:-1] + np.uint64(1)) * first + values[1:]
        fours = pairs[:-2] * second + pairs[2:]
        return np.asarray(fours[:-1] * third + values[SHINGLE - 1 :] * first)


def _place(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)
