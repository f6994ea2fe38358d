"""Whether a word stands in a file or folder: in its bytes, and in all that is packed, encoded or stored in them."""

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import re
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

DEEP = 6  # packed in packed things
ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
ZIP, GZIP, BZIP2, XZ, ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
PARQUET, ARROW, SQLITE = b"PAR1", b"ARROW1", b"SQLite format 3\x00"
ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
PACKED = (ZIP, GZIP, BZIP2, XZ, ZSTD, PARQUET, ARROW, SQLITE, *ZLIB)
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)


def found(word: str, *places: Path) -> list[str]:
    """The files below `places` that hold the word, each with the way to it."""
    files = (path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*"))))
    return [f"{path}{way}" for path in files if path.is_file() for way in found_in(word, path.read_bytes(), path)]


def found_in(word: str, content: bytes, path: Path | None = None) -> list[str]:
    """The ways to the word in some bytes: an empty one where it stands there as it is. `path` is where they lie."""
    forms = tuple(_forms(word))
    return [way for way, inner in _unpacked(content, path, DEEP) if any(form in inner for form in forms)]


def _forms(word: str) -> Iterator[bytes]:
    """A word as bytes may spell it. Of its base64, which depends on what stands before it, the part that it settles."""
    for text in (word.encode(), word.encode("utf-16-le")):
        yield text
        for before in range(3):
            whole = base64.b64encode(bytes(before) + text)
            sure = whole[-(-8 * before // 6) : len(whole) - 4] if len(text) + before > 3 else whole
            yield sure
            yield sure.translate(bytes.maketrans(b"+/", b"-_"))
    yield word.encode().hex().encode()


def _unpacked(content: bytes, path: Path | None, deep: int) -> Iterator[tuple[str, bytes]]:
    """Some bytes, and what comes out of them."""
    yield "", content
    in_lines = content.translate(None, b"\r\n") if content.find(b"\n") >= 0 else content
    joined = in_lines.replace(b"\\n", b"")  # base64 comes in lines, also inside JSON
    if joined != content:
        yield " without line breaks", joined
    if deep == 0:
        return
    for what, inner in _opened(content, path):
        yield from ((f" > {what}{way}", more) for way, more in _unpacked(inner, None, deep - 1))
    for match in ENCODED.finditer(joined):
        inner = _decoded(match[0])
        if inner.startswith(PACKED):
            yield from ((f" > base64{way}", more) for way, more in _unpacked(inner, None, deep - 1))


def _decoded(text: bytes) -> bytes:
    plain = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    whole = plain[:-1] if len(plain) % 4 == 1 else plain
    return base64.b64decode(whole + b"=" * (-len(whole) % 4))


def _opened(content: bytes, path: Path | None) -> Iterator[tuple[str, bytes]]:
    """What a packed file holds; nothing where it is none, or damaged."""
    with contextlib.suppress(*DAMAGED):
        if content.startswith(ZIP):
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                for name in packed.namelist():
                    yield name, packed.read(name)
        elif content.startswith(GZIP):
            yield "gzip", gzip.decompress(content)
        elif content.startswith(BZIP2):
            yield "bzip2", bz2.decompress(content)
        elif content.startswith(XZ):
            yield "xz", lzma.decompress(content)
        elif content.startswith(ZSTD):
            yield "zstd", pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
        elif content.startswith(ZLIB):
            yield "zlib", zlib.decompress(content)
        elif content.startswith(PARQUET):
            yield "parquet", _rows(pq.read_table(io.BytesIO(content)))
        elif content.startswith(ARROW):
            yield "arrow", _rows(pa.ipc.open_file(io.BytesIO(content)).read_all())
        elif content.startswith(SQLITE):
            yield from _cells(content, path)


def _rows(table: pa.Table) -> bytes:
    """A table's rows and what is said of its columns, as text and with its bytes as they are."""
    parts = [str(table.schema).encode(), *(table.schema.metadata or {}), *(table.schema.metadata or {}).values()]
    for column in table.columns:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            parts += [value for value in column.to_pylist() if value is not None]
    parts.append(json.dumps(table.to_pylist(), ensure_ascii=False, default=str).encode())
    return b"\n".join(parts)


def _cells(content: bytes, path: Path | None) -> Iterator[tuple[str, bytes]]:
    """Every cell of a database, also of what is not moved in yet: long ones are spread over its pages."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        copy.write_bytes(content)
        beside = path.with_name(f"{path.name}-wal") if path is not None else None
        if beside is not None and beside.is_file():
            shutil.copy(beside, f"{copy}-wal")
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.text_factory = bytes
            tables = [row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
            for table in tables:
                with contextlib.suppress(sqlite3.Error):  # a virtual table whose extension is not there
                    for row in database.execute(f'SELECT * FROM "{table}"'):
                        for cell in row:
                            if isinstance(cell, bytes):
                                yield f"table {table}", cell
