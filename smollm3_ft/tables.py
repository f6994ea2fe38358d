"""Parquet files, and the Arrow files of the library `datasets`, as rows of plain Python values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.strictjson import Found

ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 1 << 20


def parquet(path: Path, place: str) -> Iterator[Found]:
    """The rows of a Parquet file, numbered from one."""
    number = 0
    with _named(place, "Parquet"), pq.ParquetFile(path) as file:
        for number, size, row in _rows(file.schema_arrow, file.iter_batches(batch_size=ROWS_AT_ONCE), place, 1):
            yield number, size, row
        if number != file.metadata.num_rows:
            raise DataError(f"{place} says it has {file.metadata.num_rows} rows, and has {number}", "it is damaged")


def parquet_rows(path: Path) -> int:
    """How many rows a Parquet file says that it has."""
    with _named(str(path), "Parquet"):
        return int(pq.read_metadata(path).num_rows)


def arrow(path: Path, place: str, first: int) -> Iterator[Found]:
    """The rows of a stream of Arrow batches, numbered from `first`."""
    with _named(place, "Arrow"), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from _rows(stream.schema, map(_valid, stream), place, first)


@contextmanager
def _named(place: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{place} cannot be read as {kind} ({why})", "it is something else, or damaged") from None


def _rows(schema: Any, batches: Iterable[Any], place: str, first: int) -> Iterator[Found]:
    names = Counter(schema.names).most_common(1)
    if names and names[0][1] > 1:
        raise DataError(f"{place}: {names[0][1]} columns are called {names[0][0]!r}", "give each its own name")
    for batch in batches:
        size = batch.nbytes // max(1, batch.num_rows)
        step = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, size)))
        for start in range(0, batch.num_rows, step):
            for row in _values(batch.slice(start, step)):
                yield first, size, row
                first += 1


def _valid(batch: Any) -> Any:
    batch.validate(full=True)  # what is damaged in a file that is mapped into memory could end the process
    return batch


def _values(batch: Any) -> list[dict[str, Any] | BadRow]:
    packed = {field.name: field.type for field in batch.schema if "arrow.json" in str(field.type)}
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        for name, kind in packed.items():  # `datasets` keeps a column of mixed types as JSON texts
            for row in rows:
                row[name] = _unpacked(row[name], kind)
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, a date out of range
        if batch.num_rows == 1:
            return [BadRow("unreadable_value", str(error))]
        return [row for at in range(batch.num_rows) for row in _values(batch.slice(at, 1))]
    return list[dict[str, Any] | BadRow](rows)


def _unpacked(value: Any, kind: Any) -> Any:
    if value is None or "arrow.json" not in str(kind):
        return value
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {field.name: _unpacked(value[field.name], field.type) for field in kind}
    return [_unpacked(item, kind.value_type) for item in value]
