"""A block of rows → their tokens and what became of each: what every core does by itself while data is prepared."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smollm3_ft import conversations, documents, reading
from smollm3_ft.documents import Document, Work
from smollm3_ft.formats import FORMATS, BadRow
from smollm3_ft.reading import Block
from smollm3_ft.sources import SourcePlan

NUMBERS = {name: number for number, name in enumerate(FORMATS)}


class Task(NamedTuple):
    """A block to prepare, the source and split that it is of, and which of its rows are in the sample (None: all)."""

    block: Block
    source: int
    split: int
    chosen: npt.NDArray[np.int64] | None


class Done(NamedTuple):
    """A block's rows: of each kept one its line, digest, notes, format and number of documents; of each document its
    tokens, mask, length and answer; of each dropped one its line, reason and detail."""

    task: Task
    rows: int
    formats: Counter[str]
    lines: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint64]
    notes: npt.NDArray[np.uint8]
    format: npt.NDArray[np.uint8]
    parts: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    mask: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    dropped: list[tuple[int, BadRow]]


def prepare(work: Work, sources: tuple[SourcePlan, ...], task: Task) -> Done:
    """Every row of a block: kept with its tokens, or dropped with its reason."""
    source = sources[task.source]
    formats: Counter[str] = Counter()
    kept: list[tuple[int, bytes, int, int, list[Document]]] = []
    dropped: list[tuple[int, BadRow]] = []
    rows = 0
    chosen = None if task.chosen is None else set(task.chosen.tolist())
    for line in reading.lines(task.block):
        rows += 1
        if chosen is not None and rows - 1 not in chosen:
            dropped.append((line.number, BadRow("sampled", "not among the rows of data.sample")))
            continue
        if isinstance(line.row, BadRow):
            dropped.append((line.number, line.row))
            continue
        try:
            columns = source.columns or {}
            asked = conversations.read(line.row, columns, source.format, work.data, work.chat, work.method)
            formats[asked.format] += 1
            found, notes = documents.of_row(work, asked, line)
            kind = NUMBERS[asked.format]
            kept.append((line.number, conversations.digest(asked), asked.notes | notes, kind, found))
        except BadRow as bad:
            dropped.append((line.number, bad))
    return _done(task, rows, formats, kept, dropped)


def _done(
    task: Task,
    rows: int,
    formats: Counter[str],
    kept: list[tuple[int, bytes, int, int, list[Document]]],
    dropped: list[tuple[int, BadRow]],
) -> Done:
    found = [document for *_, held in kept for document in held]
    nothing: list[Any] = [np.array([], dtype=np.int32)]
    return Done(
        task._replace(block=task.block._replace(content=b"")),
        rows,
        formats,
        lines=np.array([number for number, *_ in kept], dtype=np.int32),
        digests=np.frombuffer(b"".join(digest for _, digest, *_ in kept), dtype=np.uint64).reshape(-1, 2),
        notes=np.array([notes for _, _, notes, *_ in kept], dtype=np.uint8),
        format=np.array([kind for _, _, _, kind, _ in kept], dtype=np.uint8),
        parts=np.array([len(held) for *_, held in kept], dtype=np.int32),
        ids=np.concatenate([document.ids for document in found] or nothing),
        mask=np.concatenate([document.mask for document in found] or nothing).astype(np.int8),
        lengths=np.array([len(document.ids) for document in found], dtype=np.int32),
        answers=np.array([document.answer for document in found], dtype=np.int32),
        dropped=dropped,
    )


def without_tokens(done: Done) -> Done:
    """What has to be kept of a block in memory when its tokens are on disk and its bad rows written down."""
    nothing = np.array([], dtype=np.int32)
    return done._replace(ids=nothing, mask=nothing.astype(np.int8), lengths=nothing, answers=nothing, dropped=[])
