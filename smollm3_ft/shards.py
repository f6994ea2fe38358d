"""Prepared tokens on disk: Arrow files whose rows are sequences, each of one document or several packed ones.

Columns: `input_ids` (tokens), `mask` (1 where a token is trained on), `lengths` (of each document), `answers` (where
the last answer of each document begins, -1 where it was cut off), `places` and `lines` (where each document came from).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

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


class Facts(NamedTuple):
    """Of each document: its tokens, where its answer begins, and where it came from."""

    lengths: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int32]


class Documents:
    """Tokenized documents in the order they came, in flat files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = (folder / "ids.bin", folder / "mask.bin")
        self._files = tuple(path.open("wb") for path in self._paths)

    def __enter__(self) -> Documents:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def add(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int8]) -> None:
        """The tokens of the next documents."""
        self._files[0].write(ids.data)
        self._files[1].write(mask.data)

    def write_shard(self, path: Path, sequences: Sequences, facts: Facts) -> tuple[int, int]:
        """Write one Arrow file of the given documents. Returns its tokens and the trained ones among them."""
        for file in self._files:
            file.flush()
        ends = np.cumsum(facts.lengths, dtype=np.int64)
        bounds = np.concatenate([[0], sequences.ends])
        tokens = trained = 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for at in range(0, len(sequences), SEQUENCES_A_BATCH):
                part = bounds[at : at + SEQUENCES_A_BATCH + 1]
                chosen = sequences.order[part[0] : part[-1]]
                ids, mask = self._gather(ends[chosen] - facts.lengths[chosen], ends[chosen])
                offsets = np.concatenate([[0], np.cumsum(facts.lengths[chosen], dtype=np.int64)])[part - part[0]]
                columns = [_lists(values, offsets) for values in (ids, mask)]
                columns += [_lists(values[chosen], part - part[0]) for values in facts]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
                tokens += len(ids)
                trained += int(mask.sum())
        return tokens, trained

    def _gather(
        self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """The tokens and masks of documents. The files are mapped anew each time: what was read need not stay."""
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        ids = np.memmap(self._paths[0], dtype=np.int32, mode="r").view(np.ndarray)  # whose slices cost a quarter
        mask = np.memmap(self._paths[1], dtype=np.int8, mode="r").view(np.ndarray)
        return (
            np.concatenate([ids[start:end] for start, end in spans]),
            np.concatenate([mask[start:end] for start, end in spans]),
        )


def _lists(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.ascontiguousarray(values)))


def read(path: Path) -> pa.Table:
    """A shard's rows, memory-mapped."""
    with pa.memory_map(str(path), "rb") as source:
        return pa.ipc.open_stream(source).read_all()
