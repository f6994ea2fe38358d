"""Prepared tokens on disk: Arrow files whose rows are sequences, each of one document or several packed ones.

Columns: `input_ids` (tokens), `mask` (1 where a token is trained on), `lengths` (of each document), `answers` (where
the last answer of each document begins, -1 where it was cut off), `places` and `lines` (where each document came from).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
ROWS_A_BATCH = 1000


class Documents:
    """Tokenized documents in the order they came: tokens in flat files, a few numbers a document in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = (folder / "ids.bin", folder / "mask.bin")
        self._files = tuple(path.open("wb") for path in self._paths)
        self._ends = [0]
        self.answers: list[int] = []
        self.places: list[int] = []
        self.lines: list[int] = []

    def __enter__(self) -> Documents:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def __len__(self) -> int:
        return len(self.answers)

    def add(self, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int8], answer: int, place: int, line: int) -> None:
        self._files[0].write(ids.astype(np.int32).tobytes())
        self._files[1].write(mask.astype(np.int8).tobytes())
        self._ends.append(self._ends[-1] + len(ids))
        self.answers.append(answer)
        self.places.append(place)
        self.lines.append(line)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        ends = np.array(self._ends, dtype=np.int64)
        return ends[1:] - ends[:-1]

    def write_shard(self, path: Path, sequences: Iterable[Sequence[int]]) -> tuple[int, int]:
        """Write one Arrow file of the given documents. Returns its tokens and the trained ones among them."""
        for file in self._files:
            file.flush()
        if not self._ends[-1]:
            raise ValueError("there are no documents to write")
        ids = np.memmap(self._paths[0], dtype=np.int32, mode="r")
        mask = np.memmap(self._paths[1], dtype=np.int8, mode="r")
        tokens = trained = 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            rows: list[dict[str, npt.NDArray[Any]]] = []
            for sequence in sequences:
                row = self._row(sequence, ids, mask)
                tokens += len(row["input_ids"])
                trained += int(row["mask"].sum())
                rows.append(row)
                if len(rows) == ROWS_A_BATCH:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                    rows = []
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        return tokens, trained

    def _row(
        self, sequence: Sequence[int], ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int8]
    ) -> dict[str, npt.NDArray[Any]]:
        spans = [slice(self._ends[i], self._ends[i + 1]) for i in sequence]
        return {
            "input_ids": np.concatenate([ids[span] for span in spans]),
            "mask": np.concatenate([mask[span] for span in spans]),
            "lengths": np.array([span.stop - span.start for span in spans], dtype=np.int32),
            "answers": np.array([self.answers[i] for i in sequence], dtype=np.int32),
            "places": np.array([self.places[i] for i in sequence], dtype=np.int32),
            "lines": np.array([self.lines[i] for i in sequence], dtype=np.int32),
        }


def read(path: Path) -> pa.Table:
    """A shard's rows, memory-mapped."""
    with pa.memory_map(str(path), "rb") as source:
        return pa.ipc.open_stream(source).read_all()
