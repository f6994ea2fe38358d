"""The journal of a run: one JSON object a line, appended and flushed, each id once, readable while it is written.

`metrics.jsonl` is written by the training process alone, `host.jsonl` by the process beside it. An id is made of the
run's id, the kind, and the step or a running number, so a resumed run skips what is there and a record may be delivered
any number of times.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from smollm3_ft import files

Kind = Literal["train", "eval", "event", "alert", "system"]
STARTS = ("started", "resumed")  # what the event says with which a training process begins


class Record(NamedTuple):
    """One line. `step` is the optimizer step it belongs to, None for the machine's own."""

    id: str
    time: float
    step: int | None
    kind: str
    values: dict[str, Any]


class Journal:
    """The writing end of one journal file; one a file. Threads of one process may share it."""

    def __init__(self, path: Path, run_id: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _repair(path)
        self._run_id = run_id
        records = read(path)
        self._ids = {record.id for record in records}
        self._written = Counter(record.kind for record in records)
        self._lock = threading.Lock()
        is_new = not path.exists()
        self._file = path.open("a", encoding="utf-8")
        if is_new:
            files.sync_folder(path.parent)  # its entry there, and not only what will be in it

    def write(self, kind: Kind, values: dict[str, Any], step: int | None = None) -> None:
        """Append a record. Training and evaluation records are known by their step: a second one is skipped."""
        with self._lock:
            if kind in ("train", "eval"):
                identity = f"{self._run_id}:{kind}:{step}"
                if identity in self._ids:
                    return
            else:
                identity = self._next(kind)
            self._ids.add(identity)
            record = {"id": identity, "time": time.time(), "step": step, "kind": kind, "values": _finite(values)}
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def _next(self, kind: Kind) -> str:
        """The next number of a kind; behind a damaged line the count alone may name one that is in use."""
        while True:
            self._written[kind] += 1
            identity = f"{self._run_id}:{kind}:{self._written[kind]}"
            if identity not in self._ids:
                return identity

    def sync(self) -> None:
        """Flush to the disk, so that what a checkpoint rests on survives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def read(path: Path) -> list[Record]:
    """Every complete record of a journal; none where there is no file."""
    return read_new(path, 0)[0]


def damaged(path: Path) -> int:
    """The number of its lines that are whole and no records, as a power cut may leave them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return sum(line.endswith(b"\n") and bool(line.strip()) and _record(line) is None for line in lines)


def read_new(path: Path, offset: int, at_once: int = -1) -> tuple[list[Record], int]:
    """The complete records after `offset` (bytes), and the offset after them; of about `at_once` bytes, or all.

    An offset that is not behind a line is of a journal that was longer once, before a power cut: all of it is read.
    A damaged line is passed over: one must not take all others with it, nor other runs' whose journals are read beside.
    """
    try:
        with path.open("rb") as file:
            if offset > 0:
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    offset = 0
            file.seek(offset)
            content = file.read(at_once) + (file.readline() if at_once >= 0 else b"")
    except FileNotFoundError:
        return [], 0
    end = content.rfind(b"\n") + 1
    records = [_record(line) for line in content[:end].splitlines() if line.strip()]
    return [record for record in records if record is not None], offset + end


def curves(path: Path, value: str) -> dict[str, list[tuple[float, float]]]:
    """A value by step, of training and validation."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in read(path):
        if record.kind in ("train", "eval") and isinstance(record.values.get(value), float):
            name = "training" if record.kind == "train" else "validation"
            found.setdefault(name, []).append((float(record.step or 0), record.values[value]))
    return found


def seconds(records: Iterable[Record]) -> float | None:
    """How long a training took: from each of its starts to the last line before the next. None where none began."""
    spans: list[tuple[float, float]] = []
    for record in records:
        if record.kind == "event" and record.values["what"] in STARTS:
            spans.append((record.time, record.time))
        elif spans:
            spans[-1] = spans[-1][0], record.time
    return sum(end - began for began, end in spans) if spans else None


def _record(line: bytes) -> Record | None:
    """The record of a line; None of a damaged one."""
    try:
        value = json.loads(line)
        return Record(value["id"], value["time"], value["step"], value["kind"], value["values"])
    except (ValueError, KeyError, TypeError):
        return None


def _repair(path: Path) -> None:
    """Cut off a last line that a crash left incomplete."""
    if not path.is_file():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a number that is none becomes its name."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
