"""Files as rows: each with the line that it has in the user's file, in blocks that a worker process can take."""

from __future__ import annotations

import codecs
import io
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from smollm3_ft import csvfile, strictjson, tables
from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.strictjson import Found

TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
READABLE = (*TEXTS, ".parquet", *(text + packed for text in TEXTS for packed in COMPRESSIONS))
ARROW = ".arrow"  # what the library `datasets` keeps of a Hub dataset
BLOCK = 1 << 20  # bytes
BLOCK_ROWS = 1000
UNPACKED_AT_ONCE = 1 << 16  # what is lost of a damaged stream, and so how near its place is told
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
WIDE_ZEROS = ((0, 1, 0, 1), (1, 0, 1, 0), (0, 1, 1, 1), (1, 1, 1, 0))  # of the first bytes, which are NUL


class Line(NamedTuple):
    """A row where it was found: the place a user knows it by, its 1-based line, and its content or why it is bad."""

    place: str
    number: int
    row: dict[str, Any] | BadRow


class Block(NamedTuple):
    """A piece of a file: the number of its first line or row, and lines of JSON, or rows that are read already."""

    place: str
    first: int
    content: bytes | list[Line]


def ending(path: Path) -> str:
    """By what a file is known to be readable, as `.jsonl.gz`; empty for a file that is not."""
    return next((known for known in (*READABLE, ARROW) if path.name.lower().endswith(known)), "")


def blocks(path: Path, place: str | None = None, first: int = 1) -> Iterator[Block]:
    """A file's blocks, in memory that does not grow with it. Raises DataError where it cannot be read."""
    place = place or str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise DataError(f"{place} is no file that can be read", "give a file with rows")
        if ending(path).startswith(".jsonl"):
            for number, content in _whole_lines(_pieces(path, place)):
                yield Block(place, number, content)
        else:
            yield from _grouped(_rows(path, place, first), place)
    except OSError as error:
        what = f"{place} cannot be read ({error.strerror or str(error).strip()})"
        raise DataError(what, "see that the file is whole, and yours to read") from None


def lines(block: Block) -> Iterator[Line]:
    """The rows of a block, each exactly once, bad ones included."""
    if isinstance(block.content, list):
        yield from block.content
        return
    for number, raw in enumerate(block.content.split(b"\n"), start=block.first):
        if raw and not raw.isspace():
            yield Line(block.place, number, strictjson.parse(raw))


def count(block: Block) -> int:
    """The rows of a block, without parsing them."""
    if isinstance(block.content, list):
        return len(block.content)
    return sum(1 for raw in block.content.split(b"\n") if raw and not raw.isspace())


def count_rows(path: Path) -> int:
    """The rows of a file, bad ones included, without parsing where that is possible."""
    if ending(path) == ".parquet":
        return tables.parquet_rows(path)
    return sum(map(count, blocks(path)))


def _rows(path: Path, place: str, first: int) -> Iterator[Found]:
    kind = "." + ending(path).split(".")[1]
    if kind == ".parquet":
        return tables.parquet(path, place)
    if kind == ARROW:
        return tables.arrow(path, place, first)
    pieces = _pieces(path, place)
    if kind == ".json":
        return strictjson.rows(pieces, place)
    if kind == ".txt":
        return _texts(_each_line(pieces))
    return csvfile.rows(_each_line(pieces), place, "\t" if kind == ".tsv" else ",")


def _texts(raws: Iterable[bytes]) -> Iterator[Found]:
    for number, raw in enumerate(raws, start=1):
        if raw.isspace():
            continue
        row: dict[str, Any] | BadRow
        try:
            row = {"text": raw.decode().removesuffix("\n").removesuffix("\r")}
        except UnicodeDecodeError as error:
            row = BadRow("not_utf8", f"byte {error.start + 1} of the line")
        if b"\0" in raw:
            row = BadRow("nul_byte", f"byte {raw.index(0) + 1} of the line")
        yield number, len(raw), row


def _grouped(rows: Iterator[Found], place: str) -> Iterator[Block]:
    held: list[Line] = []
    size = 0
    for number, characters, row in rows:
        held.append(Line(place, number, row))
        size += characters
        if size >= BLOCK or len(held) >= BLOCK_ROWS:
            yield Block(place, held[0].number, held)
            held, size = [], 0
    if held:
        yield Block(place, held[0].number, held)


def _each_line(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for _, content in _whole_lines(pieces):
        yield from io.BytesIO(content)


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file, cut anew at the ends of lines, each with the number of its first line."""
    number, held = 1, list[bytes]()
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if not end:
            held.append(piece)
            continue
        content = b"".join((*held, piece[:end]))
        yield number, content
        number += content.count(b"\n")
        held = [piece[end:]]
    if last := b"".join(held):
        yield number, last


def _pieces(path: Path, place: str) -> Iterator[bytes]:
    """A text file's bytes, unpacked, without the mark of their order."""
    compression = COMPRESSIONS.get(Path(ending(path)).suffix)
    with path.open("rb") as file:
        found = _unpacked(file, compression, place) if compression else iter(lambda: file.read(BLOCK), b"")
        head = next(found, b"")
        if head.startswith(WIDE) or tuple(int(byte == 0) for byte in head[:4]) in WIDE_ZEROS:
            raise DataError(f"{place}:1 is UTF-16 or UTF-32 text", "save it as UTF-8")
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from found


def _unpacked(file: io.BufferedReader, compression: str, place: str) -> Iterator[bytes]:
    line = 1
    with pa.CompressedInputStream(file, compression) as stream:
        while True:
            try:
                piece = stream.read(UNPACKED_AT_ONCE)
            except OSError as error:
                what = f"{place} cannot be unpacked from about line {line} on ({error})"
                raise DataError(what, "it is damaged or cut off: get it again") from None
            if not piece:
                return
            line += piece.count(b"\n")
            yield piece
