"""What proves that a word is nowhere must find it where it is."""

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from searched import found, found_in

WORD = "the-canary-in-the-coal-mine"
PLANTED = f"before {WORD} after".encode()


def parquet(codec: str) -> bytes:
    written = io.BytesIO()
    rows = {"text": [PLANTED.decode(), "other"] * 50, "bytes": [gzip.compress(b"x"), None] * 50}
    pq.write_table(pa.table(rows), written, compression=codec)
    return written.getvalue()


def arrow(codec: str) -> bytes:
    table, written = pa.table({"text": [PLANTED.decode()] * 50}), io.BytesIO()
    with pa.ipc.new_file(written, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as file:
        file.write_table(table)
    return written.getvalue()


def zipped(content: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", content)
    return written.getvalue()


def zstd(content: bytes) -> bytes:
    written = io.BytesIO()
    with pa.CompressedOutputStream(written, "zstd") as packed:
        packed.write(content)
        packed.flush()
        return written.getvalue()


PACKINGS: dict[str, Callable[[], bytes]] = {
    "as it is": lambda: PLANTED,
    "utf-16": lambda: WORD.encode("utf-16"),
    "hex": lambda: PLANTED.hex().encode(),
    "a zip": lambda: zipped(PLANTED),
    "gzip": lambda: gzip.compress(PLANTED),
    "bzip2": lambda: bz2.compress(PLANTED),
    "xz": lambda: lzma.compress(PLANTED),
    "zlib": lambda: zlib.compress(PLANTED),
    "zstd": lambda: zstd(PLANTED),
    "a pickle": lambda: pickle.dumps({"a": [ValueError(PLANTED.decode())]}),
    "a pickle in a zip, as torch saves": lambda: zipped(pickle.dumps(PLANTED)),
    "parquet, zstd": lambda: parquet("zstd"),
    "parquet, snappy": lambda: parquet("snappy"),
    "arrow, zstd": lambda: arrow("zstd"),
    "base64 in lines": lambda: base64.encodebytes(b"x" * 40 + PLANTED),
    "base64 in lines in JSON": lambda: json.dumps(base64.encodebytes(b"x" * 40 + PLANTED).decode()).encode(),
    "base64 for addresses": lambda: base64.urlsafe_b64encode(b"\xfb\xff" + PLANTED),
    "a pickle that is packed, then base64 in JSON": lambda: json.dumps(
        {"result": base64.b64encode(gzip.compress(pickle.dumps(PLANTED))).decode()}
    ).encode(),
    "a zip in a zip in gzip": lambda: gzip.compress(zipped(zipped(PLANTED))),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_it_is_found_in(packing: str) -> None:
    """However it is packed; and no other word is."""
    content = PACKINGS[packing]()
    assert found_in(WORD, content)
    assert not found_in(WORD[::-1], content)


@pytest.mark.parametrize("before", range(9))
def test_base64_is_looked_through_wherever_it_begins(before: int) -> None:
    """The same word has three spellings, by what stands before it."""
    assert found_in(WORD, b"result: " + base64.b64encode(b"y" * before + PLANTED))


def test_a_database_is_read_with_what_is_not_moved_into_it_yet(tmp_path: Path) -> None:
    """Also a word that lies over the border of two pages."""
    path = tmp_path / "some.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size=512")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE logs (message TEXT)")
        for shift in range(0, 512, 8):
            database.execute("INSERT INTO logs VALUES (?)", ("z" * (600 + shift) + WORD + "z" * 600,))
        database.commit()
        there = found(WORD, tmp_path)
    assert sum("table logs" in way for way in there) == 64
