"""Prepared tokens on disk: Arrow files whose rows are sequences, each of one document or several packed ones.

Columns: `input_ids` (tokens), `mask` (1 where a token is trained on), `lengths` (of each document), `answers` (where
the last answer of each document begins, -1 where it was cut off), `places` and `lines` (where each document came from).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smollm3_ft.packing import Sequences

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "mask": pa.list_(pa.int8()),
        "lengths": pa.list_(pa.int32()),
        "answers": pa.list_(pa.int32()),
        "places": pa.list_(pa.int32()),
        "lines": pa.list_(pa.int32()),
    }
)
SEQUENCES_A_BATCH = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


class Facts(NamedTuple):
    """Of each document: its tokens, where its answer begins, and where it came from."""

    lengths: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int32]


class Documents:
    """Tokenized documents in the order they came, in a flat file: a token that is trained on as its complement."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "documents.bin").open("w+b")

    def __enter__(self) -> Documents:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int8]) -> None:
        """The tokens of the next documents."""
        self._file.write(np.where(mask, ~ids, ids).data)

    def flush(self) -> None:
        """Let what was added be read."""
        self._file.flush()

    def write_shard(self, path: Path, sequences: Sequences, facts: Facts) -> tuple[int, int]:
        """Write one Arrow file of the given documents. Returns its tokens and the trained ones among them."""
        ends = np.cumsum(facts.lengths, dtype=np.int64)
        bounds = np.concatenate([[0], sequences.ends])
        parts = [bounds[at : at + SEQUENCES_A_BATCH + 1] for at in range(0, len(sequences), SEQUENCES_A_BATCH)]

        def gathered(part: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
            chosen = sequences.order[part[0] : part[-1]]
            return self.read(ends[chosen] - facts.lengths[chosen], ends[chosen])

        tokens = trained = 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for part, (ids, mask) in zip(parts, _one_ahead(gathered, parts), strict=True):
                chosen = sequences.order[part[0] : part[-1]]
                offsets = np.concatenate([[0], np.cumsum(facts.lengths[chosen], dtype=np.int64)])[part - part[0]]
                columns = [_lists(values, offsets) for values in (ids, mask)]
                columns += [_lists(values[chosen], part - part[0]) for values in facts]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
                tokens += len(ids)
                trained += int(mask.sum())
        return tokens, trained

    def read(
        self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """Tokens and masks from place to place, behind `flush`. Not mapped: what was mapped would stay in memory."""
        file, spans = self._file.fileno(), zip((4 * starts).tolist(), (4 * (ends - starts)).tolist(), strict=True)
        tokens = np.frombuffer(b"".join([os.pread(file, size, start) for start, size in spans]), dtype=np.int32)
        trained = tokens < 0
        return np.where(trained, ~tokens, tokens), trained.astype(np.int8)


def _one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function(item)` of each, the next one already at work in a thread: reading while there is writing."""
    with ThreadPoolExecutor(1) as thread:
        pending: Future[Result] | None = None
        for item in items:
            coming = thread.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = coming
        if pending is not None:
            yield pending.result()


def _lists(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(_array(offsets.astype(np.int32)), _array(values))


def _array(values: npt.NDArray[Any]) -> pa.Array:
    # By its buffer: pa.array would import pandas to see whether it is one of its kinds.
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def read(path: Path) -> pa.Table:
    """A shard's rows, memory-mapped."""
    with pa.memory_map(str(path), "rb") as source:
        return pa.ipc.open_stream(source).read_all()
