"""Comma- and tab-separated values as rows: a header, quotes that close, and as many fields as the header has."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.strictjson import Found

QUOTED = re.compile(rb'"(?:[^"]|"")*+"')
LONGEST_FIELD = 1 << 26  # characters; what an open quote may swallow


def rows(raws: Iterable[bytes], place: str, delimiter: str) -> Iterator[Found]:
    """The rows below the header, each with the line where it begins. Raises DataError where no row can be told."""
    csv.field_size_limit(LONGEST_FIELD)
    lines, held = 0, io.BytesIO()  # how many lines the rows so far took, and those of the row that is being read

    def texts() -> Iterator[str]:
        for raw in raws:
            held.write(raw)
            # What is no UTF-8 stays, as half characters that no UTF-8 can hold: only the rows that have them are bad.
            yield raw.decode("utf-8", "surrogateescape")

    header: list[str] = []
    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            begins, lines = lines + 1, reader.line_num
            held.seek(0)
            held.truncate()
            if len(fields) < 2 and not "".join(fields).strip():
                continue
            if header:
                yield begins, sum(map(len, fields)), _row(header, fields)
            else:
                header = _header(fields, f"{place}:{begins}")
    except csv.Error as error:
        row = held.getvalue()
        quote = _broken_quote(row, delimiter.encode())
        line = lines + 1 + row.count(b"\n", 0, quote or 0)
        raise DataError(f"{place}:{line} cannot be read ({error})", _remedy(error, quote)) from None
    if not header:
        raise DataError(f"{place}:1 has no header", "name the columns in the first line")


def _header(fields: list[str], where: str) -> list[str]:
    if _fault(fields):
        raise DataError(f"{where}: the header is no UTF-8 text", "save the file as UTF-8")
    ((name, times),) = Counter(fields).most_common(1)
    if times > 1:
        places = ", ".join(str(place) for place, field in enumerate(fields, 1) if field == name)
        raise DataError(f"{where}: columns {places} have the same name", "give each its own, in the first line")
    return fields


def _row(header: list[str], fields: list[str]) -> dict[str, Any] | BadRow:
    if len(fields) != len(header):
        return BadRow("wrong_columns", f"{len(fields)} fields, the header has {len(header)}")
    return _fault(fields) or dict(zip(header, fields, strict=True))


def _fault(fields: list[str]) -> BadRow | None:
    text = "".join(fields)
    if "\0" in text:
        return BadRow("nul_byte", "a field holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return BadRow("not_utf8", f"a field holds the byte 0x{ord(text[error.start]) - 0xDC00:02x}")
    return None


def _broken_quote(row: bytes, delimiter: bytes) -> int | None:
    """Where the quote stands that is not closed, or closed in the middle of a field."""
    at = 0
    while at < len(row):
        if row[at : at + 1] == b'"':
            closed = QUOTED.match(row, at)
            if not closed or row[closed.end() : closed.end() + 1] not in (delimiter, b"\r", b"\n", b""):
                return at
            at = closed.end() + 1
        else:
            following = row.find(delimiter, at)
            at = following + 1 if following >= 0 else len(row)
    return None


def _remedy(error: csv.Error, quote: int | None) -> str:
    if quote is not None:
        return 'close the quote that begins there; one inside quotes is written twice ("")'
    return "end lines with a line feed" if "new-line" in str(error) else "shorten the field"
