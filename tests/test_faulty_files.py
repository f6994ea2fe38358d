"""Files as they are really found: each is read to the last row, or refused at the line where it is broken."""

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ALONE, Prepare

from smollm3_ft.errors import ConfigError, DataError

Make = bytes | Callable[[Path], object]  # what is in the file, or what puts it there

A = b'{"prompt": "What is 1?", "completion": "It is 1."}\n'
B = b'{"prompt": "What is 2?", "completion": "It is 2."}\n'
CSV = b"prompt,completion\nWhat is 1?,It is 1.\n"
BOM = b"\xef\xbb\xbf"


def said(answer: bytes) -> bytes:
    """Rows of which the second has this answer, as it is written in JSON."""
    return A + b'{"prompt": "What is 2?", "completion": ' + answer + b"}\n"


def table(**columns: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["What is 1?"], "completion": ["It is 1."], **columns}), file)
    return file.getvalue()


def zstd(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, "zstd", asbytes=True))


def empty_table(path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())}), path)


LONG = b"[" + b",".join(b'{"prompt": "What is %d?", "completion": "It is %d."}' % (n, n) for n in range(3000)) + b"]"
BAD_CRC = bytearray(gzip.compress(A + B))
BAD_CRC[-6] ^= 1
LONG_ROW = b'{"prompt": "What?", "completion": "' + b"It is so. " * 5_000_000 + b'"}\n'

# Each with the rows that are kept of it, and those that are dropped.
READ: dict[str, tuple[str, Make, int, dict[str, int]]] = {
    "malformed line": ("x.jsonl", A + b"{bad}\n" + B, 2, {"malformed_json": 1}),
    "last line cut off": ("x.jsonl", A + B[:30], 1, {"malformed_json": 1}),
    "last line without its end": ("x.jsonl", A + B.rstrip(), 2, {}),
    "two objects in a line": ("x.jsonl", A + B.rstrip() + B, 1, {"malformed_json": 1}),
    "comma behind a line": ("x.jsonl", A + B.rstrip() + b",\n", 1, {"malformed_json": 1}),
    "single quotes": ("x.jsonl", A + B.replace(b'"', b"'"), 1, {"malformed_json": 1}),
    "latin-1": ("x.jsonl", said(b'"caf\xe9"'), 1, {"not_utf8": 1}),
    "half of a UTF-8 character": ("x.jsonl", said(b'"\xf0\x9f\x98"') + B, 2, {"not_utf8": 1}),
    "UTF-8 of half a character": ("x.jsonl", said(b'"\xed\xa0\xbd"'), 1, {"not_utf8": 1}),
    "byte order mark": ("x.jsonl", BOM + A + B, 2, {}),
    "byte order mark inside": ("x.jsonl", A + BOM + B, 1, {"malformed_json": 1}),
    "CRLF": ("x.jsonl", (A + b"\n" + B).replace(b"\n", b"\r\n"), 2, {}),
    "lone CR": ("x.jsonl", A + (B + B).replace(b"\n", b"\r"), 1, {"malformed_json": 1}),
    "a NUL byte": ("x.jsonl", said(b'"a\0b"'), 1, {"malformed_json": 1}),
    "NUL bytes behind the rows": ("x.jsonl", A + bytes(4096), 1, {"malformed_json": 1}),
    "NUL bytes before the rows": ("x.jsonl", bytes(4096) + b"\n" + A, 1, {"malformed_json": 1}),
    "half a character, written out": ("x.jsonl", said(rb'"\ud83d"'), 1, {"lone_surrogate": 1}),
    "both halves, written out": ("x.jsonl", said(rb'"\ud83d\ude00"'), 2, {}),
    "U+2028 in a text": ("x.jsonl", said('"a\u2028b\u2029c\x85d"'.encode()), 2, {}),
    "blank lines": ("x.jsonl", b"\n" + A + b" \t\r\n\n" + B + b"\n\n", 2, {}),
    "a list": ("x.jsonl", A + b'[{"prompt": "a", "completion": "b"}]\n', 1, {"not_an_object": 1}),
    "a list over several lines": ("x.jsonl", b"[\n" + A.rstrip() + b",\n" + B + b"]\n", 1, {"malformed_json": 3}),
    "an object over several lines": (
        "x.jsonl",
        A + b'{\n "prompt": "a",\n "completion": "b"\n}\n',
        1,
        {"malformed_json": 4},
    ),
    "scalars": ("x.jsonl", A + b'1\n"text"\ntrue\nnull\n', 1, {"not_an_object": 4}),
    "null content": ("x.jsonl", said(b"null"), 1, {"unknown_format": 1}),
    "integer content": ("x.jsonl", said(b"5"), 1, {"not_text": 1}),
    "list content": ("x.jsonl", said(b'["It is 2."]'), 1, {"bad_message": 1}),
    "object content": ("x.jsonl", said(b'{"text": "It is 2."}'), 1, {"not_text": 1}),
    "another format's row": ("x.jsonl", A + b'{"question": "What is 3?", "answer": "It is 3."}\n', 2, {}),
    "no format's row": ("x.jsonl", A + b'{"url": "a", "title": "b"}\n', 1, {"unknown_format": 1}),
    "empty object": ("x.jsonl", A + b"{}\n", 1, {"unknown_format": 1}),
    "a key twice": ("x.jsonl", said(b'"a", "completion": "b"'), 1, {"duplicate_key": 1}),
    "a key twice below": ("x.jsonl", said(b'"a", "x": [{"y": 1, "y": 1}]'), 1, {"duplicate_key": 1}),
    "NaN": ("x.jsonl", said(b'"a", "score": NaN'), 1, {"malformed_json": 1}),
    "Infinity": ("x.jsonl", said(b'"a", "score": -Infinity'), 1, {"malformed_json": 1}),
    "a number of 5,000 digits": ("x.jsonl", said(b'"a", "n": ' + b"1" * 5000), 1, {"malformed_json": 1}),
    "deep nesting": ("x.jsonl", said(b"[" * 100_000), 1, {"malformed_json": 1}),
    "deep nesting that closes": ("x.jsonl", said(b"[" * 900 + b"]" * 900), 1, {"malformed_json": 1}),
    "very many columns": ("x.jsonl", said(b'"b"' + b"".join(b', "c%d": 1' % n for n in range(50_000))), 2, {}),
    "a row of 50 MB": ("x.jsonl", A + LONG_ROW + B, 2, {"over_length": 1}),
    "gzip": ("x.jsonl.gz", gzip.compress(A) + gzip.compress(b"{cut\n" + B), 2, {"malformed_json": 1}),
    "zstd": ("x.jsonl.zst", zstd(A + b"{cut\n" + B), 2, {"malformed_json": 1}),
    "capital ending": ("X.JSONL", A + B, 2, {}),
    "list in JSON": ("x.json", b"[" + A + b"," + B + b"]", 2, {}),
    "a long list in JSON": ("x.json", LONG, 3000, {}),
    "object in JSON": ("x.json", A, 1, {}),
    "bad elements": ("x.json", b'[5, "a", null, [],' + A + b"]", 1, {"not_an_object": 4}),
    "NaN in JSON": ("x.json", b'[{"n": NaN},' + A + b"]", 1, {"malformed_json": 1}),
    "a key twice in JSON": ("x.json", b'[{"n": [{"m": 1, "m": 1}]},' + A + b"]", 1, {"duplicate_key": 1}),
    "a list of lists": ("x.json", b"[[" + A + b"]," + B + b"]", 1, {"not_an_object": 1}),
    "latin-1 in JSON": ("x.json", b'[{"prompt": "caf\xe9"},' + A + b"]", 1, {"not_utf8": 1}),
    "packed JSON": ("x.json.zst", zstd(b"[" + A + b"]"), 1, {}),
    "byte order mark and CRLF in CSV": ("x.csv", BOM + CSV.replace(b"\n", b"\r\n"), 1, {}),
    "ragged CSV": ("x.csv", CSV + b"a\na,b,c\n", 1, {"wrong_columns": 2}),
    "lines in a CSV field": ("x.csv", CSV + b'"What\n\nis 2?","It is ""2""."\n', 2, {}),
    "semicolons in CSV": ("x.csv", CSV + b"What is 2?;It is 2.\n", 1, {"wrong_columns": 1}),
    "an empty CSV field": ("x.csv", CSV + b"What is 2?,\n", 1, {"empty": 1}),
    "latin-1 in CSV": ("x.csv", CSV + b"caf\xe9,It is 2.\n", 1, {"not_utf8": 1}),
    "a NUL byte in CSV": ("x.csv", CSV + b"What\0,It is 2.\n", 1, {"nul_byte": 1}),
    "TSV": ("x.tsv", CSV.replace(b",", b"\t") + b"a,b\n", 1, {"wrong_columns": 1}),
    "packed CSV": ("x.csv.gz", gzip.compress(CSV), 1, {}),
    "Parquet": ("x.parquet", table(at=pa.array([1], pa.timestamp("us")), raw=[b"\xff"]), 1, {}),
    "null in Parquet": ("x.parquet", lambda path: pq.write_table(
        pa.table({"prompt": ["a", None, "c"], "completion": ["b", "b", None]}), path
    ), 1, {"unknown_format": 2}),
}  # fmt: skip

# Each with what is said of it.
REFUSED: dict[str, tuple[str, Make, str]] = {
    "empty": ("x.jsonl", b"", "has no rows"),
    "only blank lines": ("x.jsonl", b"\n \n\r\n", "has no rows"),
    "only a byte order mark": ("x.jsonl", BOM, "has no rows"),
    "UTF-16": ("x.jsonl", A.decode().encode("utf-16"), r"x\.jsonl:1 is UTF-16 or UTF-32 text; save it as UTF-8"),
    "UTF-16 without its mark": ("x.jsonl", A.decode().encode("utf-16-be"), r"x\.jsonl:1 is UTF-16"),
    "UTF-32": ("x.jsonl", A.decode().encode("utf-32"), r"x\.jsonl:1 is UTF-16 or UTF-32"),
    "UTF-16 in JSON": ("x.json", A.decode().encode("utf-16"), r"x\.json:1 is UTF-16"),
    "UTF-16 in CSV": ("x.csv", CSV.decode().encode("utf-16"), r"x\.csv:1 is UTF-16"),
    "UTF-16 in text": ("x.txt", "Hello\n".encode("utf-16"), r"x\.txt:1 is UTF-16"),
    "no good row": ("x.jsonl", b"{cut\n[1]\n", r"no row of .*x\.jsonl is left \(1 malformed_json, 1 not_an_object\)"),
    "empty JSON": ("x.json", b" \n", "has no rows"),
    "empty list in JSON": ("x.json", b"[]\n", "has no rows"),
    "garbage behind JSON": ("x.json", b"[" + A + b"]\n\ngarbage", r"x\.json:4 holds more after its end"),
    "JSON lines in JSON": ("x.json", A + B, r"x\.json:2 holds more after its end; name it \.jsonl"),
    "JSON cut off": ("x.json", b"[" + A + b"," + B[:30], r"x\.json:2 is not JSON \(Unterminated string"),
    "JSON cut off between rows": ("x.json", b"[" + A + b"," + B, r"x\.json:3 is not JSON \(the list is not closed\)"),
    "a long JSON cut off": ("x.json", LONG.replace(b"},", b"},\n")[:-100], r"x\.json:2999 is not JSON"),
    "line end in a JSON text": ("x.json", b'[{"prompt":\n"What\n is"}]', r"x\.json:2 is not JSON \(Invalid control"),
    "a comma too many": ("x.json", b"[" + A + b",\n]", r"x\.json:3 is not JSON \(Expecting value\)"),
    "deep nesting in JSON": ("x.json", b"[" + A + b"," + b"[" * 100_000, r"x\.json:2 is not JSON \(nested too deeply"),
    "an open quote": ("x.csv", CSV + b'"What is 2?,It is 2.\na,b\nc,d\n', r"x\.csv:3 cannot be read .*; close"),
    "an open quote that another ends": ("x.csv", CSV + b'a,"b\nc,d\n"e",f\n', r"x\.csv:3 cannot be read .*; close"),
    "lone CR in CSV": ("x.csv", CSV.replace(b"\n", b"\r"), r"x\.csv:1 cannot be read .*line feed"),
    "CSV without rows": ("x.csv", b"prompt,completion\n", "has no rows"),
    "empty CSV": ("x.csv", b"", r"x\.csv:1 has no header"),
    "two columns of a name": ("x.csv", b"prompt,prompt\na,b\n", r"x\.csv:1: columns 1, 2 have the same name"),
    "Parquet without its end": ("x.parquet", table()[:-8] + bytes(8), r"x\.parquet cannot be read as .*footer"),
    "Parquet cut off": ("x.parquet", table()[:200], r"x\.parquet cannot be read as Parquet"),
    "Parquet damaged inside": ("x.parquet", table()[:4] + b"\xff" * 40 + table()[44:], r"x\.parquet cannot be read"),
    "Parquet without rows": ("x.parquet", empty_table, "has no rows"),
    "JSON lines called Parquet": ("x.parquet", A + B, r"x\.parquet cannot be read as Parquet .*something else"),
    "empty Parquet": ("x.parquet", b"", r"x\.parquet cannot be read as Parquet"),
    "Parquet called JSON lines": ("x.jsonl", table(), "no row of .* is left"),
    "gzip cut off": ("x.jsonl.gz", gzip.compress(A + B)[:-12], r"x\.jsonl\.gz cannot be unpacked from about line 1 on"),
    "gzip without its length": ("x.jsonl.gz", gzip.compress(A + B)[:-2], r"x\.jsonl\.gz cannot be unpacked"),
    "gzip with a wrong sum": ("x.jsonl.gz", bytes(BAD_CRC), r"x\.jsonl\.gz cannot be unpacked .*incorrect data check"),
    "gzip that is none": ("x.jsonl.gz", A + B, r"x\.jsonl\.gz cannot be unpacked"),
    "zstd that is none": ("x.jsonl.zst", b"garbage", r"x\.jsonl\.zst cannot be unpacked"),
    "zstd cut off": ("x.jsonl.zst", zstd(A + B)[:-4], r"x\.jsonl\.zst cannot be unpacked"),
    "gzip without its ending": ("x.jsonl", gzip.compress(A + B), "no row of .* is left"),
    "packed otherwise": ("x.jsonl.bz2", b"BZh", r"x\.jsonl\.bz2 cannot be read: its ending is \.bz2"),
    "empty folder of that name": ("x.jsonl", lambda path: path.mkdir(), "holds no file to read"),
    "link to nowhere": ("x.jsonl", lambda path: path.symlink_to("nowhere"), r"there is no .*x\.jsonl"),
    "pipe": ("x.jsonl", os.mkfifo, r"x\.jsonl is neither a file nor a folder"),
    "device": ("x.jsonl", lambda path: path.symlink_to("/dev/zero"), r"x\.jsonl is neither a file nor a folder"),
}  # fmt: skip


def make(folder: Path, name: str, content: Make) -> Path:
    path = folder / "files" / name
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("case", READ)
def test_every_row_is_kept_or_dropped_with_its_reason(prepare: Prepare, tmp_path: Path, case: str) -> None:
    """The ledger of an odd file is exactly this, whatever else is in it."""
    name, content, kept, dropped = READ[case]
    prepared = prepare(make(tmp_path, name, content), max_bad_rows=1.0, max_length=64, **ALONE)
    (source,) = prepared.ledger["sources"]
    found = (source["rows"], source["kept"], source["dropped"])
    assert found == (kept + sum(dropped.values()), kept, dropped)


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_where_it_breaks(prepare: Prepare, tmp_path: Path, case: str) -> None:
    """What cannot be read is said in one line, with the file, the line where there is one, and what to do."""
    name, content, words = REFUSED[case]
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        prepare(make(tmp_path, name, content), max_bad_rows=1.0, max_length=64, **ALONE)
    assert "\n" not in str(caught.value)
